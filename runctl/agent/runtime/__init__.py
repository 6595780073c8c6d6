"""The user's program: starting, watching and stopping it."""
