"""What a guided job notes of each image: how it was made, who says what of it, what is close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whylens.jobs.report.tables import number, value


@dataclass(frozen=True)
class Near:
    """An image of the run that a generated one is close to."""

    image_id: str
    distance: float | None
    thumb: bytes | None


@dataclass(frozen=True)
class Opinion:
    """What a classifier says of an image before and after it was changed."""

    classifier: str
    class_name: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Optimisation:
    """What an optimisation passed through, who says what of it, and what it came close to.

    `mask`: where a real image could change; `psnr`: how well its inversion led back to it, in dB;
    `objective`: what was lowered, None where no run told.
    """

    trajectory: tuple[tuple[int, bytes], ...] = ()
    opinions: tuple[Opinion, ...] = ()
    closest: tuple[Near, ...] = ()
    mask: bytes | None = None
    psnr: float | None = None
    objective: str | None = None


def optimisation_of(row: Mapping[str, Any]) -> Optimisation:
    """What a row notes of it."""
    images, steps = row.get("trajectory") or (), row.get("trajectory_steps") or ()
    return value(
        Optimisation,
        row,
        trajectory=tuple(zip(steps, images, strict=False)),
        opinions=tuple(value(Opinion, one) for one in row.get("probabilities") or ()),
        psnr=number(row.get("inversion_psnr")),
    )


def others(opinions: Sequence[Opinion]) -> list[Opinion]:
    """What classifiers other than the explained one, which comes first, say."""
    return [one for one in opinions if one.classifier != opinions[0].classifier]
