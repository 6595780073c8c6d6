"""`runctl aws`: runs and instances in an AWS account."""
