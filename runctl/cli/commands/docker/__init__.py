"""Commands that use the Docker of this machine."""
