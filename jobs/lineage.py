"""What a job builds on, by the name that jobs import it under."""

from whylens.runs.lineage import Lineage

__all__ = ["Lineage"]
