"""What all services of the local cloud share: protocol, records, permissions and knobs."""
