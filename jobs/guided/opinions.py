"""What every named classifier says of an image before and after it was changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from whylens.jobs.classes import same_class

if TYPE_CHECKING:
    import torch

    from whylens.classifiers import Classifier

FIELD = (
    "probabilities",
    pa.list_(
        pa.struct(
            [
                ("classifier", pa.string()),
                ("class_name", pa.string()),
                ("before", pa.float32()),
                ("after", pa.float32()),
            ]
        )
    ),
)


def opinions(
    classifiers: Mapping[str, Classifier],
    class_names: Sequence[str],
    before: torch.Tensor | None,
    after: torch.Tensor | None,
) -> list[dict[str, Any]]:
    """Probabilities of the named classes that each classifier has, as rows of `FIELD`.

    Images are [3, H, W] in [0, 1] and measured as they are stored; None where there is none.
    """
    from whylens.jobs.images.pictures import measured

    rows = []
    for name, classifier in classifiers.items():
        seen = [None if image is None else measured(classifier, image)[1]
                for image in (before, after)]  # fmt: skip
        for class_name in dict.fromkeys(class_names):
            if (k := same_class(class_name, classifier)) is not None:
                values = [None if p is None else float(p[k]) for p in seen]
                rows.append(
                    {"classifier": name, "class_name": class_name,
                     "before": values[0], "after": values[1]}
                )  # fmt: skip
    return rows
