"""The terminal: streams, consoles, and how runs look on them."""
