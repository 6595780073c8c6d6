"""The command line, which reaches AWS and the local cloud through `runctl.aws` only."""
