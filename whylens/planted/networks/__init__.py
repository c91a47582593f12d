"""The planted world's networks, untrained, and where the package's weights for them lie."""

from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"
"""`classifiers`, and the text-to-image `pipeline`."""
