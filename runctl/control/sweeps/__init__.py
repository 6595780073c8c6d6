"""Hyperparameter sweeps: what their functions do, from the request to the results."""
