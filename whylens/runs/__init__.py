"""Run folders: tables in parts, a manifest, a lease, resume; a run opened to be read."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily
from whylens.runs.run import Run
from whylens.runs.storage import Storage
from whylens.runs.table import MissingColumnsError, Table

if TYPE_CHECKING:
    from whylens.runs.opened import OpenedRun, open_run

__all__ = ["MissingColumnsError", "OpenedRun", "Run", "Storage", "Table", "open_run"]

__getattr__ = lazily(__name__, {"OpenedRun": "opened", "open_run": "opened"})
