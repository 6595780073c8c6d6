"""Reports on runs: documents, descriptions and a follower, independent of any display."""
