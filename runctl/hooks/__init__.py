"""Hooks for frameworks that have their own training loop; they need `runctl.training`."""
