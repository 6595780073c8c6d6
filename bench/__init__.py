"""Measurements: each prints one table against its peers in the same run, `--json` one document."""
