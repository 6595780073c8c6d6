"""Before the trainer starts: code, environment and the restored checkpoint."""
