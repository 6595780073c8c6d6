"""What each function does, as functions over ports."""
