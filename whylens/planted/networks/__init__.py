"""The planted world's networks, untrained, and where their weights lie."""

from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"
"""`classifiers`, and the text-to-image `pipeline`."""
