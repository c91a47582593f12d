"""Training of the planted world's networks: `whylens planted train`."""
