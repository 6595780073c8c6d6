"""The machine the agent runs on: settings, metadata, disk and processes."""
