"""Several nodes that train together: their rendezvous, their watch over each other."""
