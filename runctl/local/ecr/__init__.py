"""ECR: its repositories and images, with a real registry behind them."""
