"""The reports of the agent: heartbeats, progress, logs, metrics and outputs."""
