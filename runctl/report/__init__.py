"""What people want to know of a run, without any display."""
