"""What differs between the machine that submits a job and the cluster that runs it.

`python -m whylens.cluster.versions FILE` is the first thing that a submitted job does on the
cluster: nothing of ours but this module is imported before the difference is told.
"""

import json
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from whylens.errors import WhylensError

# What every difference of is worth a line; of other packages only one that does not fit.
SHOWN = ("python", "ray", "torch", "whylens")


class Version(NamedTuple):
    """A package's version, None where it is not installed, and what whylens requires of it."""

    version: str | None
    requires: str = ""


def here() -> dict[str, Version]:
    """Python, whylens and all that it needs, as installed here.

    Raises
    ------
    WhylensError
        If whylens is not installed, so that nothing says what it needs.
    """
    from packaging.requirements import Requirement

    try:
        about = metadata.metadata("whylens")
        needs = [Requirement(text) for text in metadata.requires("whylens") or []]
    except metadata.PackageNotFoundError as error:
        raise WhylensError("whylens is not installed here: pip install it") from error
    found = {
        "python": Version(platform.python_version(), about["Requires-Python"] or ""),
        "whylens": Version(about["Version"]),
    }
    for need in needs:
        if need.marker is None:  # those of extras have one
            found[need.name] = Version(_installed(need.name), str(need.specifier))
    return found


def compare(
    sender: Mapping[str, Version], there: Mapping[str, str | None]
) -> tuple[list[str], list[str]]:
    """Lines for what differs and still fits, and for what does not fit what whylens requires."""
    from packaging.specifiers import SpecifierSet

    differs, unfit = [], []
    for name, (version, requires) in sender.items():
        found = there.get(name)
        if found == version:
            continue
        both = f"{name} is {version} where the job was submitted, "
        if found is None and name != "whylens":
            unfit.append(f"{both}and not installed on the cluster")
        elif found is not None and requires and found not in SpecifierSet(requires):
            unfit.append(f"{both}{found} on the cluster; whylens needs {requires}")
        elif name == "whylens":
            differs.append(f"{both}{found or 'none'} on the cluster; the submitted one is run")
        elif name in SHOWN:
            differs.append(f"{both}{found} on the cluster")
    return differs, unfit


def write(path: Path) -> None:
    """Write this machine's versions where `main` reads them on the cluster."""
    path.write_text(json.dumps(here()))


def main(path: str, *options: str) -> int:
    """Tell what differs; the exit code: 2 where it does not fit, unless told to go on."""
    sender = {name: Version(*pair) for name, pair in json.loads(Path(path).read_text()).items()}
    there = {name: _installed(name) for name in sender} | {"python": platform.python_version()}
    differs, unfit = compare(sender, there)
    for line in (*differs, *unfit):
        print(f"whylens: {line}", file=sys.stderr)
    if not unfit or "--any-versions" in options:
        return 0
    print(
        "whylens: the cluster's packages do not fit, so nothing was run. Give its machines an "
        "image with these versions (infra/docker), or submit with --any-versions",
        file=sys.stderr,
    )
    return 2


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
