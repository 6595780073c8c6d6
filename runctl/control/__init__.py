"""The behavior of each Lambda function, as functions over ports."""
