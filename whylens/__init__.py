"""Asks an image classifier why, and shows the answer as pictures: the science, PyTorch only."""

from whylens.lazy import lazily

__version__ = "0.1.0"
__getattr__ = lazily(__name__, {"open_run": "runs.opened"})
