"""Folders that somebody else writes to: what is in them is opened without following a link.

A trainer may replace any file or folder of its own by a link, a pipe or a device at any moment,
also between two system calls of the agent. So nothing in such a folder is reached by a path: each
folder is opened relative to the descriptor of the one above it, and a file is used only if it is a
regular one after it was opened.
"""
