"""The state machine's definition: pure text, so that reading it needs no CDK."""
