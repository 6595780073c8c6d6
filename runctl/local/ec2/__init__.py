"""EC2 of the local cloud: fleets, instances, volumes and their metadata."""
