"""Machine-learning work on EC2 Spot with no server to operate."""

__version__ = "0.1.0"
