"""`runctl aws`: training runs and instances in an AWS account."""
