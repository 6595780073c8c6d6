"""SSM of the local cloud: documents, commands and parameters."""
