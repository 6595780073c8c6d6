"""The user's project: its folder, its settings, and the package that is made of it."""
