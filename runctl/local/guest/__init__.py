"""What runs in an instance of the local cloud in place of an operating system."""
