"""The score job: how much do classifiers rely on features that are known to be spurious?"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator

from whylens.cluster.room import settled
from whylens.cluster.session import session
from whylens.errors import UnfinishedError, WhylensError
from whylens.images import Rejected, RejectedImageError, open_collection, units
from whylens.images.eval_transform import EvalTransform
from whylens.images.spurious import open_spurious
from whylens.jobs.images.listed import LISTINGS, as_begun
from whylens.jobs.images.rejected import REJECTED, write_rejected
from whylens.jobs.measuring.published import shown_as_published
from whylens.jobs.measuring.sides import SIDES, Contender, Side, contend, make_sides
from whylens.jobs.measuring.tables import LEADERBOARD, PREDICTION, PREDICTIONS, SCORES, tabulate
from whylens.jobs.registry import Job
from whylens.jobs.spec import JobSpec
from whylens.jobs.stage import work_through
from whylens.runs import Run

# Classes of the head that the published data set speaks of.
IMAGENET = 1000


class ScoreSpec(JobSpec):
    """The spurious score of classifiers, and how it goes with their accuracy."""

    classifiers: list[str] = Field(
        min_length=1,
        description="Classifiers to score, by name; the first one's classes are those meant by "
        "the images (ImageNet's 1,000 for a head of any ImageNet list).",
    )
    images: str = Field(
        description="Validation images with their classes: a folder with one subfolder a class, "
        ".parquet, a WebDataset .tar, or planted:<split>?count=N&seed=S."
    )
    spurious: str = Field(
        description="Spurious images: the folder of the published data set (images/), .parquet "
        "with a column that names the class, or planted:spurious?count=N&seed=S."
    )
    spurious_column: str = Field(
        "spurious_for",
        description="Parquet: the column of the class (name or index) that an image is spurious "
        "for.",
    )
    transform: Literal["own", "published"] = Field(
        "own",
        description="How images are shown: as each classifier's own library does, or as the code "
        "behind the published table does, for all bicubic, spurious images whole (with "
        "timm:NAME?size=test, since that takes timm's test sizes).",
    )
    unit: int = Field(256, ge=1, description="Images a unit.")
    batch: int = Field(64, ge=1, description="Images that go through a classifier together.")

    @field_validator("classifiers")
    @classmethod
    def _different(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("a classifier is named more than once")
        return names


@dataclass(frozen=True)
class ScoreUnit:
    """A slice of one side, for one classifier."""

    name: str
    contender: int
    side: int
    start: int
    stop: int


def run(spec: ScoreSpec) -> Run:
    """Score the classifiers; tables predictions, scores and leaderboard, figures and a page.

    Raises
    ------
    UsageError
        For a name that means nothing, before anything is written.
    UnfinishedError
        If a classifier could not be scored; the others are.
    """
    from whylens.jobs.measuring import score_report

    collection = open_collection(spec.images)
    spurious = open_spurious(spec.spurious, spec.spurious_column)
    space, contenders = contend(spec.classifiers)
    make_sides(collection, spurious, space, contenders)
    with JOB.working(spec) as run:
        validation, wrong = SIDES
        collection = as_begun(run, validation, collection)
        spurious = spurious.only(as_begun(run, wrong, spurious.images))
        sides, remarks = make_sides(collection, spurious, space, contenders)
        for remark in remarks:
            run.warn(remark)
        for side, listed in zip(sides, (collection, spurious.images), strict=True):
            write_rejected(run, f"{side.name}-listing", listed.rejected, side.name)
        todo = [
            ScoreUnit(f"{c:03d}-{side.name}-{name}", c, s, part.start, part.stop)
            for c in range(len(contenders))
            for s, side in enumerate(sides)
            for name, part in units(len(side), spec.unit)
        ]
        unfinished = None  # A classifier that fails does not lose the others' scores.
        try:
            with session() as ray:
                placement = settled(ray, spec.placement)
                work_through(
                    run,
                    PREDICTIONS,
                    todo,
                    Predictor,
                    (run, sides, contenders, placement.device, spec.batch, spec.transform),
                    placement,
                )
        except UnfinishedError as error:
            unfinished = error
        done = set(run.table(PREDICTIONS).units())
        failed = {unit.contender for unit in todo if unit.name not in done}
        if len(failed) < len(contenders):
            with run.stage(SCORES):
                is_published = spurious.published and len(space) == IMAGENET
                tabulate(run, contenders, space, failed, is_published)
            score_report.write(run)
        if unfinished:
            raise unfinished
        if len(failed) == len(contenders):
            raise WhylensError("no classifier could be scored: the table failures says why")
    return run


class Predictor:
    """A worker: p_k of a slice's images by one classifier, which it keeps until another's turn."""

    def __init__(
        self,
        run: Run,
        sides: Sequence[Side],
        contenders: Sequence[Contender],
        device: str,
        batch: int,
        transform: str = "own",
    ) -> None:
        self.run, self.sides, self.contenders = run, sides, contenders
        self.device, self.batch, self.transform = device, batch, transform
        self._held = -1
        self._classifier: Any = None

    def __call__(self, unit: ScoreUnit) -> int:
        """Write the slice's predictions; how many images could be read."""
        from whylens.classifiers import load_classifier
        from whylens.images.tensors import to_tensor

        contender, side = self.contenders[unit.contender], self.sides[unit.side]
        if self._held != unit.contender:
            self._classifier = None  # two large ones may not fit
            self._classifier = load_classifier(contender.name, self.device)
            self._held = unit.contender
        shown: EvalTransform = self._classifier.eval_transform
        if self.transform == "published":
            shown = shown_as_published(shown.size, side.name)
        places = range(unit.start, unit.stop)
        records = {place: side.collection.records[side.rows[place]] for place in places}

        def load(place: int) -> Any:
            try:
                image = side.collection.load(records[place])
            except RejectedImageError as error:
                return Rejected(records[place].id, records[place].path, str(error))
            return to_tensor(shown(image))

        with ThreadPoolExecutor(2) as threads:
            loaded = dict(zip(places, threads.map(load, places), strict=True))
        rejected = [item for item in loaded.values() if isinstance(item, Rejected)]
        # An image that can't be read is named once, whoever finds out.
        write_rejected(self.run, f"{side.name}-{unit.start:09d}", rejected, side.name)
        kept = [place for place in places if not isinstance(loaded[place], Rejected)]
        classes = np.asarray([side.classes[place] for place in kept], dtype=np.int64)
        images = [loaded[place] for place in kept]
        p, predicted = self._predict(images, classes, contender.columns)
        rows = [
            {
                "classifier": contender.name,
                "side": side.name,
                "id": records[place].id,
                "class_index": side.classes[place],
                "component": side.components[place],
                "p": float(p_k),
                "predicted": int(called),
            }
            for place, p_k, called in zip(kept, p, predicted, strict=True)
            if np.isfinite(p_k)
        ]
        reason = f"the probabilities of {contender.name} are not finite"
        undefined = [
            Rejected(records[place].id, records[place].path, reason)
            for place, p_k in zip(kept, p, strict=True)
            if not np.isfinite(p_k)
        ]
        write_rejected(self.run, unit.name, undefined, side.name)
        part = pa.Table.from_pylist(rows, schema=PREDICTION)
        self.run.table(PREDICTIONS).write(unit.name, part)
        return len(rows)

    def _predict(
        self, images: list[Any], classes: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """p of each image's class [N], over the whole head; the class called [N].

        As the published code does it: a head of 21,843 classes keeps them all in the softmax, and
        k's column is read from it. float64, so that p near 1 doesn't tie. Only classes of the run
        can be called.
        """
        import torch

        here = np.flatnonzero(columns >= 0)
        p, called = [np.zeros(0)], [np.zeros(0, np.int64)]
        with torch.inference_mode():
            for start in range(0, len(images), self.batch):
                batch = torch.stack(images[start : start + self.batch]).to(self.device)
                logits = self._classifier.logits(batch).cpu().double()
                wanted = torch.from_numpy(columns[classes[start : start + self.batch]])
                p.append(self._classifier.activation.p(logits, wanted).numpy())
                called.append(here[logits[:, columns[here]].argmax(1).numpy()])
        return np.concatenate(p), np.concatenate(called)


JOB = Job(
    name="score",
    help="How much classifiers rely on known spurious features.",
    spec=ScoreSpec,
    run=run,
    tables=(LISTINGS, REJECTED, PREDICTIONS, SCORES, LEADERBOARD),
    show="whylens.jobs.measuring.terminal:show_leaderboard",
    page="whylens.jobs.measuring.score_report:write",
)
