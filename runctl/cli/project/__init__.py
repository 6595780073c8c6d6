"""The user's project: its folder, its settings, and the package made from it."""
