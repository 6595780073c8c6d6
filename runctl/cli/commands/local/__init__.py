"""`runctl local`: the local cloud, an AWS on this machine, and the faults that it simulates."""
