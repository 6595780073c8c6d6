"""What runs in an instance of the local cloud in the place of an operating system."""
