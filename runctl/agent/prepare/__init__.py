"""The preparation of an attempt: code, environment and the restored checkpoint."""
