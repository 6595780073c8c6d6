"""Processing jobs: the plan of their shards, and their end."""
