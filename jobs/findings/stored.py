"""Components as they lie in a run: one safetensors file of arrays a class, beside the table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from whylens.errors import UsageError
from whylens.neural_pca.components import ClassComponents, from_arrays, to_arrays
from whylens.runs.lineage import Lineage

if TYPE_CHECKING:
    from whylens.classifiers import Classifier
    from whylens.runs import Run

COMPONENTS = "components"


def arrays_name(class_index: int) -> str:
    """Where a class's arrays lie in the run folder."""
    return f"components/class-{class_index:06d}.safetensors"


def packed(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Arrays as a safetensors file."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, metadata)


def write_components(run: Run, found: ClassComponents, fingerprint: str) -> None:
    """Keep a class's components, and of which classifier they are."""
    content = packed(to_arrays(found), {"classifier": json.dumps(fingerprint)})
    run.storage.write(arrays_name(found.class_index), content)


def read_components(lineage: Lineage, class_index: int) -> ClassComponents:
    """A class's components, as a run or its sources keep them."""
    from safetensors.numpy import load

    return from_arrays(load(lineage.file(COMPONENTS, arrays_name(class_index))))


def directions(
    lineage: Lineage, findings: Sequence[Mapping[str, Any]]
) -> dict[tuple[int, int], tuple[np.ndarray, float]]:
    """d_l [D] and c_l of each finding, by class and component."""
    keys = [(row["class_index"], row["component"]) for row in findings]
    of = {k: read_components(lineage, k) for k in {k for k, _ in keys}}
    return {(k, row): (of[k].directions[row], float(of[k].offsets[row])) for k, row in keys}


def components_of(lineage: Lineage, class_index: int, classifier: Classifier) -> ClassComponents:
    """A class's components, which have to be there and to be this classifier's.

    Raises
    ------
    UsageError
        If the run has none of the class, or they are of other weights than the classifier's.
    """
    from safetensors.numpy import load

    folder = lineage.holder(COMPONENTS).folder
    try:
        content = lineage.file(COMPONENTS, arrays_name(class_index))
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} has no components of the class {classifier.class_names[class_index]!r}: it "
            "has too few images, or was not asked for"
        ) from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    noted = header.get("__metadata__", {}).get("classifier")
    if noted is not None and json.loads(noted) != classifier.fingerprint:
        raise UsageError(
            f"the components in {lineage.runs[0].folder} are of the classifier "
            f"{json.loads(noted)}, but {classifier.name} is {classifier.fingerprint} now: its "
            "weights have changed, run the components job again"
        )
    return from_arrays(load(content))
