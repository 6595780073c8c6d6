"""From the checkpoint folder to committed checkpoints."""
