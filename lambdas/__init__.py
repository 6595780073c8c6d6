"""The Lambda functions: each parses its event, makes one call, and returns the result."""
