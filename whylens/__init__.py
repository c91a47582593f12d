"""whylens asks an image classifier why, and shows the answer as pictures."""

__version__ = "0.1.0"
