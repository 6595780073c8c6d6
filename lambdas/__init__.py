"""The functions: each parses its event, makes one call, and returns what came of it."""
