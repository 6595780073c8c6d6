"""Services: HTTP servers that are probed, restarted, and replaced without a gap."""
