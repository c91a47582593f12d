"""Asks an image classifier why, and shows the answer as pictures: the science, PyTorch only."""

__version__ = "0.1.0"
