"""The local cloud: an AWS in one process, whose instances are real process groups."""
