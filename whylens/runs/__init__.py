"""Run folders: tables in parts, a manifest, resume."""

from whylens.runs.run import Run, Table
from whylens.runs.storage import Storage

__all__ = ["Run", "Storage", "Table"]
