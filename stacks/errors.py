"""Errors in the settings of a deployment."""


class BadContextError(ValueError):
    """A context value is invalid; the message names it and the remedy."""
