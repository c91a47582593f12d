"""Files that are either whole or not there, on any fsspec filesystem."""

import errno
import logging
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from whylens.errors import UsageError, WhylensError
from whylens.filesystem import filesystem, local, object_store, remote

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ASIDE = ".aside-"
# Seconds before what failed is tried again; a full or read-only disk does not get better.
WAITS = (0.5, 2.0, 8.0)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Clients of object stores say these without a number.
_LASTING_KINDS = (PermissionError, FileNotFoundError, FileExistsError)


class Storage:
    """A folder on a filesystem: local, or an fsspec URL such as s3://bucket/run.

    A file on an object store is one PUT (of 100 MB and more: one upload in pieces, which shows when
    it is complete): the same file written twice, by a worker that was taken for dead, say, is the
    same file. Locally a file is written aside, flushed and renamed.

    What fails for a moment (a store that restarts, a network) is tried again for some ten seconds.

    Pickled to workers, which have working directories of their own: it holds the URL, and where a
    relative path leads to.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or url
        self._place = self.url if remote(self.url) else os.path.abspath(self.url)

    @property
    def local(self) -> bool:
        """Whether the folder is on this machine's own filesystem."""
        return not remote(self._place) or local(filesystem(self._place)[0])

    def path(self, name: str) -> str:
        """Full path of a file, for messages and for pyarrow."""
        return f"{self._place}/{name}"

    def exists(self, name: str) -> bool:
        system, root = filesystem(self._place)
        return bool(self.patiently(lambda: system.exists(f"{root}/{name}")))

    def names(self, folder: str) -> list[str]:
        """Names of the finished files in a folder, sorted; none where it isn't there."""
        system, root = filesystem(self._place)
        try:
            found = self.patiently(lambda: system.ls(f"{root}/{folder}", detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _explain(error, self.url) from error
        names = (str(path).rsplit("/", 1)[-1] for path in found)
        return sorted(n for n in names if not n.startswith(ASIDE))

    def open(self, name: str) -> Any:
        """A file to read from at any place, which has to be closed.

        Of an object store each read fetches what it asks for, and nothing ahead.
        """
        system, root = filesystem(self._place)
        return self.patiently(lambda: system.open(f"{root}/{name}", "rb", cache_type="none"))

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises
        ------
        FileNotFoundError
            If it isn't there.
        WhylensError
            If the store does not answer.
        """
        system, root = filesystem(self._place)
        content: bytes = self.patiently(lambda: system.cat_file(f"{root}/{name}"))
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file: whole, or not there.

        Raises
        ------
        UsageError
            If the folder can't be written to.
        WhylensError
            If the disk is full, or another error of the filesystem that does not pass.
        """
        try:
            self.patiently(lambda: self._write(name, content))
        except OSError as error:
            raise _explain(error, self.url) from error

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that isn't there; whether it was not. Of several who try, one does.

        Locally the file is opened exclusively, on S3 it is a PUT with `If-None-Match: *`.

        Raises
        ------
        UsageError, WhylensError
            As `write`.
        """
        system, root = filesystem(self._place)
        target = f"{root}/{name}"
        try:
            if self.local:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, "xb") as stream:
                    stream.write(content)
            else:
                self.patiently(lambda: system.pipe_file(target, content, mode="create"))
        except FileExistsError:
            # An answer that was lost on the way has the request sent again: then it is ours.
            return self.exists(name) and self.read(name) == content
        except OSError as error:
            raise _explain(error, self.url) from error
        return True

    def remove(self, name: str) -> None:
        """Remove a file; one that isn't there is removed already."""
        system, root = filesystem(self._place)
        with suppress(FileNotFoundError):
            self.patiently(lambda: system.rm_file(f"{root}/{name}"))

    def _write(self, name: str, content: bytes) -> None:
        system, root = filesystem(self._place)
        target = f"{root}/{name}"
        folder, _, file = target.rpartition("/")
        if not self.local:
            if not object_store(self._place):
                system.makedirs(folder, exist_ok=True)
            system.pipe_file(target, content)
            return
        aside = f"{folder}/{ASIDE}{uuid.uuid4().hex}-{file}"
        try:
            os.makedirs(folder, exist_ok=True)
            with open(aside, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, target)
        except FileNotFoundError as error:  # a driver that starts has swept it away
            raise OSError(errno.EAGAIN, str(error)) from error
        except OSError:
            if os.path.exists(aside):
                os.unlink(aside)
            raise

    def patiently(self, act: Callable[[], Result]) -> Result:
        """What `act` returns, tried again where it fails for what may pass.

        Whoever reads a file at several places does all of that in one `act`.
        """
        for wait in (*WAITS, None):
            try:
                return act()
            except OSError as error:
                if wait is None or _lasting(error):
                    raise
                trouble: Exception = error
            except WhylensError:
                raise
            except Exception as error:
                # Clients of object stores have kinds of their own for a server that is away.
                if self.local:
                    raise
                if wait is None:
                    raise WhylensError(f"{self.url} does not answer: {error}") from error
                trouble = error
            logger.warning("%s: tried again in %.1f s: %s", self.url, wait, trouble)
            time.sleep(wait)
        raise AssertionError

    def sweep(self) -> None:
        """Remove what interrupted writes left aside."""
        if not self.local:
            return
        _, root = filesystem(self._place)
        for folder, _, files in os.walk(root):
            for file in files:
                if file.startswith(ASIDE):
                    os.unlink(os.path.join(folder, file))


def _lasting(error: OSError) -> bool:
    return isinstance(error, _LASTING_KINDS) or error.errno in (*_REFUSED, *_FULL)


def _explain(error: OSError, url: str) -> WhylensError:
    if isinstance(error, _LASTING_KINDS) or error.errno in _REFUSED:
        return UsageError(
            f"the output folder {url} can't be written to ({error.strerror or error}): "
            "name another with --out"
        )
    if error.errno in _FULL:
        return WhylensError(
            f"the disk of the output folder {url} is full: make room and start the same command "
            "again; what is finished is kept"
        )
    return WhylensError(f"writing to {url} failed: {error}")
