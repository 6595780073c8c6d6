"""What several resources of one stack are made of."""
