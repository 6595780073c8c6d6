"""Step Functions of the local cloud: executions, task tokens and redrives."""
