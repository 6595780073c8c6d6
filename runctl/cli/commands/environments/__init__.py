"""`runctl environments`: the stored environments that runs share."""
