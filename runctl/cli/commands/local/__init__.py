"""`runctl local`: the local cloud, and the faults it can simulate."""
