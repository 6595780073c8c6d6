"""Which capacity to ask for, and what may be given up: pure functions of what is known."""
