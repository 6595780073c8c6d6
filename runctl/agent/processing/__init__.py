"""Processing: a script that is called once for each shard of an input, in several workers."""
