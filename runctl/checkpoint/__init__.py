"""The checkpoint engine: when a folder is whole, what is stored, and how it is restored."""
