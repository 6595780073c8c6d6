"""Hooks for the frameworks that have a training loop of their own; they need `runctl.training`."""
