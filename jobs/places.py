"""Which files of this machine a spec names: they have to travel with a submitted job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from whylens.classifiers.names import SCHEMES
from whylens.errors import UsageError
from whylens.images.layouts import LAYOUTS

# The settings whose words may be a path, alone or within a classifier's name.
PLACES = frozenset(
    (
        "images", "second", "spurious", "source", "runs", "queries",
        "classifier", "classifiers", "against", "robust", "independent", "judges", "judge",
        "sampler", "captioner", "segmenter", "vgg", "lpips", "inception", "tree", "masks", "model",
        "vocabulary",
    )
)  # fmt: skip
# Of these schemes the name is a file; of WITHOUT it never is.
FILES = ("checkpoint", "robustness", "spufix")
WITHOUT = ("bundled", "timm", "planted", "random", "torchvision")
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".json", ".parquet", ".tar", ".txt")


@dataclass(frozen=True)
class Place:
    """A path that a setting names; `required` where the name can be nothing but a path."""

    setting: str
    path: str
    required: bool = False


def sent(settings: Mapping[str, Any]) -> tuple[dict[str, str], list[Place]]:
    """What of a spec's places travels, the setting of each path, and what is looked for there.

    A relative path is this machine's and keeps its name on the way, so that the spec means the same
    and a run that was begun here can be gone on with there. A full path is the cluster's, as it is
    for `out`.

    Raises
    ------
    UsageError
        For a relative path that is not here, or that leads out of the present folder.
    """
    travelling: dict[str, str] = {}
    there: list[Place] = []
    for place in places(settings):
        if not place.path:
            continue
        path = os.path.normpath(place.path)
        if os.path.isabs(path):
            there.append(place)
        elif not os.path.exists(path):
            if place.required or path.endswith(SUFFIXES):
                raise UsageError(
                    f"{place.setting} names {place.path}, which is not in {os.getcwd()} and so "
                    "can't be sent: start the command where it is, or name a full path that the "
                    "cluster's machines share"
                )
        elif path.split(os.sep)[0] in (os.pardir, os.curdir):
            raise UsageError(
                f"{place.setting} names {place.path}, which is not below {os.getcwd()}: only what "
                "is below travels, under the name that it has. Start the command in a folder above "
                "it, or name a full path that the cluster's machines share"
            )
        else:
            travelling.setdefault(path, place.setting)
    return travelling, there


def places(value: Any, setting: str = "") -> Iterator[Place]:
    """Every path that settings may name, and those that a repaired head or a run of theirs names.

    `setting` is where the settings stand in others.
    """
    if isinstance(value, Mapping):
        for name, below in value.items():
            inside = f"{setting}.{name}" if setting else str(name)
            if isinstance(below, Mapping):
                yield from places(below, inside)
            elif name in PLACES:
                words = below if isinstance(below, list | tuple) else [below]
                for word in words:
                    if isinstance(word, str):
                        yield from _within(word, inside)
                        if name in ("source", "runs", "queries"):
                            yield from _of_run(word, inside)


def _within(name: str, setting: str) -> Iterator[Place]:
    """The paths within one name: PATH, SCHEME:PATH, SCHEME:MODEL/PATH, and ?OPTION=PATH."""
    if "://" in name:
        return
    body, _, query = name.partition("?")
    scheme, colon, rest = body.partition(":")
    if not colon or scheme not in (*SCHEMES, *LAYOUTS):
        yield Place(setting, body.removeprefix("parquet:"))
    elif scheme in LAYOUTS:
        yield Place(setting, rest)
    elif scheme in FILES:
        yield Place(setting, rest, required=True)
        if scheme == "spufix":
            yield from _of_repair(rest, setting)
    elif scheme == "open_clip":
        yield Place(setting, rest.partition("/")[2])
    elif scheme not in WITHOUT:
        yield Place(setting, rest)
    for option, value in parse_qsl(query):
        if option in ("weights", "classes"):
            yield Place(setting, value)
        elif option == "base":
            yield from _within(value, setting)


def _of_repair(path: str, setting: str) -> Iterator[Place]:
    """The paths in the name of the classifier that a repaired head belongs to."""
    from whylens.classifiers.repaired import read_repair

    if os.path.isfile(path):
        yield from _within(read_repair(path, f"spufix:{path}").base, f"{setting} (its base)")


def _of_run(folder: str, setting: str) -> Iterator[Place]:
    """The paths that a run's own spec names: jobs that build on it load its classifier."""
    from whylens.runs import Run

    try:
        spec = Run.open(folder).record()["spec"]
    except Exception:
        # A bucket that this machine can't read; the cluster's machines tell what they can't.
        return
    wanted = {name: spec.get(name) for name in ("classifier", "source")}
    yield from places(wanted, f"{setting} (its spec)")
