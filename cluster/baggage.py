"""What travels with a submitted job: the package, the spec, and the files that it names."""

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from whylens.cluster import versions
from whylens.errors import UsageError, WhylensError

PACKAGES = ("kernels", "cluster", "jobs", "dashboard")
# Ray's job server takes requests of 100 MiB (DASHBOARD_CLIENT_MAX_SIZE); a zip's directory counts.
LIMIT = 95 * 1024**2
VERSIONS = ".whylens-versions.json"


def check_size(files: Mapping[str, str]) -> int:
    """Bytes of the files and folders, the setting of each path being known.

    Raises
    ------
    UsageError
        If they are more than a job server takes; the largest are named with their settings.
    """
    sizes = {path: sum(p.stat().st_size for p in _files(Path(path))) for path in files}
    total = sum(sizes.values())
    if total > LIMIT:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(f"{path} ({_megabytes(sizes[path])}, {files[path]})" for path in largest)
        raise UsageError(
            f"the spec names {_megabytes(total)} of files that would have to travel, and a job "
            f"server takes {_megabytes(LIMIT)}: {named}. Put them where the cluster's machines "
            "read them, and name that: a full path that they share, or for images a URL"
        )
    return total


def pack(spec: Path, files: Mapping[str, str], target: Path) -> Path:
    """A zip with the spec, this machine's versions and the files, each under its own name.

    A zip of our own, since Ray leaves out of a folder what a .gitignore in it names.
    """
    with zipfile.ZipFile(target, "w", strict_timestamps=False) as archive:
        archive.write(spec, spec.name)
        note = target.with_name(VERSIONS)
        versions.write(note)
        archive.write(note, VERSIONS)
        packed = {spec.name, VERSIONS}
        for path in files:
            for file in _files(Path(path)):
                if str(file) not in packed:
                    packed.add(str(file))
                    archive.write(file, str(file))
    return target


def package(target: Path) -> Path:
    """The installed package as a folder with the installed shape, weights and all."""
    import whylens

    source = Path(whylens.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, target, ignore=ignore)
    for part in PACKAGES:
        # In an editable install these folders lie beside the package, not inside it.
        if not (target / part).is_dir():
            beside = source.parent / part
            if not beside.is_dir():
                raise WhylensError(f"whylens.{part} is not where the package is: install whylens")
            shutil.copytree(beside, target / part, ignore=ignore)
    return target


def _files(path: Path) -> Iterator[Path]:
    """A file itself, or all files below a folder."""
    if path.is_file():
        yield path
    else:
        yield from sorted(below for below in path.rglob("*") if below.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
