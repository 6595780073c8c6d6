"""The signals to the agent: notices, requests, and the waits that they end."""
