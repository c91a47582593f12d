"""Files that are either whole or not there, on any fsspec filesystem."""

import errno
import logging
import os
import time
import uuid
from typing import Any

from whylens.errors import UsageError, WhylensError

logger = logging.getLogger(__name__)

ASIDE = ".aside-"
# Seconds before a write that failed is tried again; a full or read-only disk does not get better.
WAITS = (0.5, 2.0, 8.0)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LASTING = (*_REFUSED, *_FULL)


class Storage:
    """A folder on a filesystem: local, or an fsspec URL such as s3://bucket/run.

    Pickled to workers, which have working directories of their own: it holds the URL, and where a
    relative path leads to.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or url
        remote = "://" in self.url or "::" in self.url
        self._place = self.url if remote else os.path.abspath(self.url)

    def _system(self) -> tuple[Any, str]:
        import fsspec

        system, root = fsspec.core.url_to_fs(self._place)
        return system, str(root).rstrip("/")

    @property
    def local(self) -> bool:
        """Whether the folder is on this machine's own filesystem."""
        system, _ = self._system()
        return "file" in (
            system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
        )

    def path(self, name: str) -> str:
        """Full path of a file, for messages and for pyarrow."""
        return f"{self._place}/{name}"

    def exists(self, name: str) -> bool:
        system, root = self._system()
        system.invalidate_cache()  # Another process may have written it since the last listing.
        return bool(system.exists(f"{root}/{name}"))

    def names(self, folder: str) -> list[str]:
        """Names of the finished files in a folder, sorted; none where it isn't there."""
        system, root = self._system()
        system.invalidate_cache()
        try:
            found = system.ls(f"{root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rsplit("/", 1)[-1] for path in found)
        return sorted(n for n in names if not n.startswith(ASIDE))

    def open(self, name: str) -> Any:
        """A file to read from at any place, which has to be closed."""
        system, root = self._system()
        return system.open(f"{root}/{name}", "rb")

    def read(self, name: str) -> bytes:
        system, root = self._system()
        content: bytes = system.cat_file(f"{root}/{name}")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file aside, flush it to the disk, and rename it: whole, or not there.

        Raises
        ------
        UsageError
            If the folder can't be written to.
        WhylensError
            If the disk is full, or another error of the filesystem that does not pass.
        """
        for wait in (*WAITS, None):
            try:
                self._write(name, content)
                return
            except OSError as error:
                if wait is None or error.errno in _LASTING:
                    raise _explain(error, self.url) from error
                logger.warning("writing to %s failed, and is tried again: %s", self.url, error)
                time.sleep(wait)

    def _write(self, name: str, content: bytes) -> None:
        system, root = self._system()
        target = f"{root}/{name}"
        folder, _, file = target.rpartition("/")
        aside = f"{folder}/{ASIDE}{uuid.uuid4().hex}-{file}"
        try:
            system.makedirs(folder, exist_ok=True)
            if not self.local:
                # Object stores show a file only when it is whole.
                system.pipe_file(target, content)
                return
            with open(aside, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, target)
        except OSError:
            if self.local and os.path.exists(aside):
                os.unlink(aside)
            raise

    def sweep(self) -> None:
        """Remove what interrupted writes left aside."""
        if not self.local:
            return
        _, root = self._system()
        for folder, _, files in os.walk(root):
            for file in files:
                if file.startswith(ASIDE):
                    os.unlink(os.path.join(folder, file))


def _explain(error: OSError, url: str) -> WhylensError:
    if error.errno in _REFUSED:
        return UsageError(
            f"the output folder {url} can't be written to ({error.strerror}): "
            "name another with --out"
        )
    if error.errno in _FULL:
        return WhylensError(
            f"the disk of the output folder {url} is full: make room and start the same command "
            "again; what is finished is kept"
        )
    return WhylensError(f"writing to {url} failed: {error}")
