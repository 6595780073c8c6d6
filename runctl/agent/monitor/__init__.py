"""Watching a program that runctl did not start."""
