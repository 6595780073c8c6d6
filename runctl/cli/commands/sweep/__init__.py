"""`runctl sweep`: hyperparameter sweeps that run, and their results."""
