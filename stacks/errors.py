"""What is wrong with what a deployment was given."""


class BadContextError(ValueError):
    """A context value cannot be used; the message names it and the cure."""
