"""The folder that the dashboard serves: nothing outside of it is read."""

from __future__ import annotations

import os
from dataclasses import dataclass

from whylens.errors import UsageError, WhylensError
from whylens.filesystem import remote
from whylens.runs.confined import ConfinedStorage, OutsideError, confined_run


@dataclass(frozen=True)
class Root:
    """A run, or a folder of runs: a path, or a URI of a filesystem that fsspec knows."""

    place: str

    @classmethod
    def of(cls, place: str) -> Root:
        """The root that a person names; `~` is the home folder.

        Raises
        ------
        UsageError
            If there is no such folder, or its filesystem needs a package that is not installed.
        """
        given = place.strip()
        root = cls(given.rstrip("/") or given) if remote(given) else cls(_absolute(given))
        root._storage()
        return root

    def runs(self) -> list[str]:
        """Names of the runs directly inside, newest first; [""] where the root is a run itself."""
        storage = self._storage()
        try:
            if storage.exists("run.json"):
                return [""]
            names = storage.names("")
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.place} can't be listed: {error}") from error
        return sorted((n for n in names if self._is_run(n)), key=self._begun, reverse=True)

    def folder(self, name: str) -> str:
        """The folder of a run by its name.

        Raises
        ------
        OutsideError
            If the name is no name of a folder in the root.
        """
        if not name:
            return self.place
        if name in (".", "..") or set(name) & set("/\\%:") or "\0" in name:
            raise OutsideError(f"{name!r} is no name of a run")
        return f"{self.place}/{name}"

    def _is_run(self, name: str) -> bool:
        try:
            return ConfinedStorage(self.folder(name), self.place).exists("run.json")
        except (OutsideError, OSError):
            return False

    def _begun(self, name: str) -> str:
        try:
            return str(confined_run(self.folder(name), self.place).record().get("created", ""))
        except (WhylensError, OSError):
            return ""

    def _storage(self) -> ConfinedStorage:
        try:
            storage = ConfinedStorage(self.place, self.place)
            there = storage.exists("")
        except ImportError as error:
            raise UsageError(f"{self.place} can't be read: {error}") from error
        except (ValueError, OSError) as error:
            raise UsageError(f"{self.place} can't be read: {error}") from error
        if not there:
            raise UsageError(f"{self.place} is not a run folder: there is no such folder")
        return storage


def _absolute(place: str) -> str:
    return os.path.abspath(os.path.expanduser(place))
