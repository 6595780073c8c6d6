"""What asks the agent to act: notices, requests, and waiting that they end."""
