"""The list of spurious components as JSON: {class index or name: [component, ...]}."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from whylens.errors import UsageError
from whylens.jobs.people.labels import import_labels, spurious_components

LIST = TypeAdapter(dict[int | str, list[NonNegativeInt]])


def export_file(run: str, file: str) -> int:
    """Write the components that count as spurious; how many. Class indices are the keys.

    Raises
    ------
    UsageError
        If the file can't be written.
    """
    found = spurious_components(run)
    lines = [f'  "{k}": {json.dumps(components)}' for k, components in found.items()]
    try:
        Path(file).write_text("{\n" + ",\n".join(lines) + "\n}\n" if lines else "{}\n")
    except OSError as error:
        raise UsageError(f"{file} can't be written: {error.strerror}") from error
    return sum(map(len, found.values()))


def import_file(run: str, file: str, who: str) -> int:
    """Label the components of a list spurious, all of them or, where one is unknown, none.

    Raises
    ------
    UsageError
        If the file can't be read or is no such list, or names classes or components that the run
        does not have: all of them are listed.
    """
    return import_labels(run, read_list(file), who, note=f"imported from {Path(file).name}")


def read_list(file: str) -> Mapping[int | str, Sequence[int]]:
    """A list of components by class index or name, as the file has it.

    Raises
    ------
    UsageError
        If it can't be read, or is of another shape: every entry that is wrong is named.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        return LIST.validate_python(content, strict=True)
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}") from error
    except ValidationError as error:
        wrong = dict.fromkeys(repr(one["loc"][0]) for one in error.errors() if one["loc"])
        where = f": what stands at {', '.join(wrong)} is no list of component indices"
        shape = '{"class index or name": [component, ...], ...}'
        raise UsageError(f"{file} is not of the shape {shape}{where if wrong else ''}") from error
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
