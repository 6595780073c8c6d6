"""`runctl checkpoints`: the stored checkpoints of a run."""
