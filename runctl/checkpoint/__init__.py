"""The checkpoint engine: when a folder is whole, what is stored of it, and how it comes back."""
