"""The local cloud: an AWS in one process, with a spot market and instances that are real processes."""
