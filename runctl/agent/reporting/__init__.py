"""What the agent reports: heartbeats, progress, logs, metrics and outputs."""
