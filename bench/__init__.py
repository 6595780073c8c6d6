"""Benchmarks: each prints a table against its peers in the same run, or one JSON document."""
