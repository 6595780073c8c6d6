"""Policies about capacity, saving, failures and cleaning up: pure functions of what is known."""
