"""The program on the instance: it prepares, runs, saves and restores the trainer."""
