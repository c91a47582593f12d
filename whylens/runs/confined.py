"""Storage that never leaves one folder, for those who read what others wrote."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from whylens.errors import UsageError
from whylens.filesystem import remote
from whylens.runs.run import Run
from whylens.runs.storage import Storage


class OutsideError(UsageError):
    """A place that is not below the root."""


class ConfinedStorage(Storage):
    """A folder whose files all lie below `root`, links followed; else OutsideError."""

    def __init__(self, url: str, root: str) -> None:
        super().__init__(url)
        self.root = root
        self._on_disk = not remote(url)
        self._top = root if remote(root) else os.path.realpath(root)
        self._inside("")

    def exists(self, name: str) -> bool:
        return super().exists(self._inside(name))

    def names(self, folder: str) -> list[str]:
        return super().names(self._inside(folder))

    def open(self, name: str) -> Any:
        self._inside(name)
        # Half the time of fsspec's file, where many small ones are read.
        return pa.OSFile(self.path(name)) if self._on_disk else super().open(name)

    def read(self, name: str) -> bytes:
        return super().read(self._inside(name))

    def write(self, name: str, content: bytes) -> None:
        super().write(self._inside(name), content)

    def _inside(self, name: str) -> str:
        if not inside(self.path(name) if name else self.url, self._top):
            raise OutsideError(
                f"{self.path(name)} is outside of {self.root}, and is not read: start the "
                "dashboard on a folder that holds both"
            )
        return name


def inside(place: str, root: str) -> bool:
    """Whether a place is the root or below it: local paths with links followed, URLs by name.

    The root is a URL, or a path without links: so they are followed once for many places.
    """
    if remote(place) != remote(root):
        return False
    if not remote(root):
        real = os.path.realpath(place)
        return real == root or real.startswith(root.rstrip(os.sep) + os.sep)
    if "\\" in place or "%" in place or "::" in place:
        return False
    seen, top_url = urlsplit(place), urlsplit(root)
    steps = seen.path.split("/")
    if (seen.scheme, seen.netloc) != (top_url.scheme, top_url.netloc) or ".." in steps:
        return False
    return f"{seen.path.rstrip('/')}/".startswith(f"{top_url.path.rstrip('/')}/")


def confined_run(folder: str, root: str) -> Run:
    """A run of which nothing outside of `root` is read; OutsideError where it is not below it."""
    run = Run(folder)
    run.storage = ConfinedStorage(folder, root)
    return run
