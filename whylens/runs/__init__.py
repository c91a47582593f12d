"""Run folders: tables in parts, a manifest, resume; a run opened to be read."""

from typing import TYPE_CHECKING

from whylens.lazy import lazily
from whylens.runs.run import Run, Table
from whylens.runs.storage import Storage

if TYPE_CHECKING:
    from whylens.runs.opened import OpenedRun, open_run

__all__ = ["OpenedRun", "Run", "Storage", "Table", "open_run"]

__getattr__ = lazily(__name__, {"OpenedRun": "opened", "open_run": "opened"})
