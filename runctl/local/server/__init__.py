"""The process that answers every request to the local cloud."""
