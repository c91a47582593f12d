"""Single rows of a Parquet column, read forward: neighbours cost one pass over their row group."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

# So many rows are in memory at a time, however large the row groups are.
BATCH = 64
BUFFER = 1 << 20


class ParquetRows:
    """The values of one column by row number, from all the files of a data set.

    A row group is read in batches from its start, and the last two batches are kept: rows asked
    for in order, by several threads too, cost one pass. A row further back starts its row group
    again. Pickled, it takes along where the row groups are, and no open file.
    """

    def __init__(self, dataset: Any, column: str) -> None:
        self._column = column
        self._system = dataset.filesystem
        self._files: list[str] = []
        groups, sizes = [], []
        for file, fragment in enumerate(dataset.get_fragments()):
            self._files.append(fragment.path)
            metadata = fragment.metadata
            for group in range(metadata.num_row_groups):
                groups.append((file, group))
                sizes.append(metadata.row_group(group).num_rows)
        self._groups = np.asarray(groups, dtype=np.int32).reshape(-1, 2)
        self._ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._kept: list[tuple[int, Any]] = []  # (first row in the group, values)

    def __getitem__(self, row: int) -> Any:
        """The value of a row, as Python has it."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        within = row - (int(self._ends[group - 1]) if group else 0)
        with self._lock:
            if group != self._group or within < self._kept[0][0]:
                self._open(group)
            while within >= (end := self._kept[-1][0] + len(self._kept[-1][1])):
                self._kept = [*self._kept[-1:], (end, next(self._batches))]
            first, values = next(kept for kept in reversed(self._kept) if kept[0] <= within)
        return values[within - first].as_py()

    def _open(self, group: int) -> None:
        import pyarrow.parquet as pq

        file, number = (int(part) for part in self._groups[group])
        # A buffer makes it read the column as it goes, not whole.
        source = pq.ParquetFile(
            self._system.open_input_file(self._files[file]), buffer_size=BUFFER, pre_buffer=False
        )
        batches = source.iter_batches(BATCH, row_groups=[number], columns=[self._column])
        self._batches = (batch.column(0) for batch in batches)
        self._kept = [(0, next(self._batches))]
        self._group = group

    def __getstate__(self) -> dict[str, Any]:
        left = ("_lock", "_batches", "_kept", "_group")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
