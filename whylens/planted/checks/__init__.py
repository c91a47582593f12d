"""Does whylens find what is known of the planted world? `whylens planted check`."""
