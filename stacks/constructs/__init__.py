"""Constructs: the building blocks of the stacks."""
