"""The confirm job: real images that confirm what generated images suggest.

What was generated for a class (components, disagreements, counterfactuals) is a query to the index
of the mined collection; `whylens.neural_pca.systematic` does the search. A class is a unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from whylens.cluster.kept import kept
from whylens.cluster.placement import Resources
from whylens.cluster.room import of_stage
from whylens.errors import UsageError
from whylens.images.tensors import to_tensor
from whylens.jobs.checking import check_names
from whylens.jobs.classes import same_class
from whylens.jobs.columns import columns
from whylens.jobs.findings.head import Head
from whylens.jobs.images.embedded import IMAGES, mined_collection
from whylens.jobs.images.rejected import REJECTED, write_unreadable
from whylens.jobs.registry import Job
from whylens.jobs.slices.shown import EXEMPLAR, KEY, TOLD, exemplars, indexed, seen_by, told
from whylens.jobs.spec import JobSpec, StageSettings
from whylens.jobs.stage import Batch, drop_others, in_batches, work_through
from whylens.neural_pca.sufficiency import best_two, strata_of
from whylens.neural_pca.systematic import (
    Gathered,
    SystematicError,
    gather,
    most_alike,
    surely_absent,
    systematic_errors,
)
from whylens.runs import Run
from whylens.runs.lineage import Lineage

CONFIRMED, SYSTEMATIC, SEARCHED = "confirmed", "systematic", "searched"
SCHEMAS = {
    # Every image that fails; `error` is null where it fails alone.
    CONFIRMED: pa.schema(
        [*KEY, ("error", pa.int32()), ("image_id", pa.string()), ("label", pa.int32()),
         *columns(pa.float32(), "p", "p_judge"), ("round", pa.int32())]
    ),
    SYSTEMATIC: pa.schema(
        [*KEY, ("error", pa.int32()), *TOLD, ("looks_like", pa.string()),
         ("generated", pa.list_(pa.binary())), ("exemplars", pa.list_(EXEMPLAR))]
    ),
    SEARCHED: pa.schema(
        # unsure: called the class, and the judge says without it, but is not sure.
        [*KEY, *columns(pa.int32(), "queries", "gathered", "absent", "failed", "unsure", "rounds",
                        "errors"),
         ("exhausted", pa.bool_())]
    ),
}  # fmt: skip
# What was generated to be called a class: the table, its columns of the class and of the picture,
# and of what says whether it counts.
QUERIES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("generated", "class_index", "image", ()),
    ("disagreements", "class_index", "image", ("classifier_a",)),
    ("counterfactuals", "target_class", "after", ("flipped",)),
)
# Generated images that are shown with an error.
SHOWN = 4
# Images of the collection, at most, by which it is told of what a judge is sure.
OTHERS = 1000


class ConfirmSettings(StageSettings):
    """How real images are looked for that fail as generated ones do."""

    judge: str | None = Field(
        None,
        description="Another classifier, which says whether an image shows the class's object; "
        "none: labels alone say it, and images without a label count as showing no object.",
    )
    absent: float = Field(
        0.1,
        ge=0,
        le=1,
        description="An image is without the object where the judge's p of the class is at most "
        "this. It fails where the judge is sure, too: this p is not among the largest twentieth of "
        "those of images that are called something else.",
    )
    classes: list[str] = Field([], description="Classes; empty: all with generated images.")
    nearest: int = Field(30, ge=1, description="Nearest real images that each query brings.")
    rounds: int = Field(
        10, ge=1, description="Rounds at most: each asks with the images that failed in the last."
    )
    least: int = Field(10, ge=2, description="Images of a systematic error, at least.")
    exemplars: int = Field(12, ge=1, description="Images kept to show an error, at most.")


class ConfirmSpec(JobSpec):
    """Real images that confirm what was generated."""

    source: str = Field(
        description="Run folder that embedded images, or builds on one that did; its generated "
        "images are queries."
    )
    queries: list[str] = Field([], description="More run folders whose generated images are.")
    confirm: ConfirmSettings = Field(ConfirmSettings(), description="How to search.")


@dataclass(frozen=True)
class ClassTask:
    """A class, and pictures that were generated to be called it."""

    class_index: int
    pictures: tuple[bytes, ...]


def queries_of(lineage: Lineage, *more: Lineage) -> dict[int, list[bytes]]:
    """What runs and their sources generated to be called a class, by class index.

    Raises
    ------
    UsageError
        If one of them is of another classifier than the first.
    """
    name, found = lineage.setting("classifier"), dict[int, list[bytes]]()
    for one in (lineage, *more):
        if (other := one.setting("classifier")) != name:
            raise UsageError(f"{one.runs[0].folder} is of the classifier {other}, not of {name}")
        for table, which, column, says in QUERIES:
            for row in one.rows(table, (which, column, *says)):
                others = row.get("classifier_a", name) != name
                if others or not row.get("flipped", True) or not row[column]:
                    continue
                found.setdefault(int(row[which]), []).append(row[column])
    return found


def confirm(
    run: Run,
    lineage: Lineage,
    settings: ConfirmSettings,
    placement: Resources,
    pictures: Mapping[int, Sequence[bytes]],
) -> None:
    """The stage: what is missing of the tables confirmed, systematic and searched.

    `pictures` are the queries, as `queries_of` has them.

    Raises
    ------
    UsageError
        If nothing was generated for the classifier's classes, or for one that is named.
    """
    from whylens.classifiers import describe

    classifier = describe(str(lineage.setting("classifier")))
    wanted = [classifier.class_index(c) for c in settings.classes] or sorted(pictures)
    if lacking := [classifier.class_names[k] for k in wanted if k not in pictures]:
        raise UsageError(f"no image was generated for {', '.join(lacking)}: leave the class out")
    if not wanted:
        raise UsageError(
            "no image was generated: run generate, disagreements or counterfactuals first, and "
            "name its run as --source or --queries"
        )
    if settings.judge is not None:
        judge, names = describe(settings.judge), classifier.class_names
        if unknown := [names[k] for k in wanted if same_class(names[k], judge) is None]:
            raise UsageError(
                f"the judge {judge.name} does not know {', '.join(unknown[:5])}: name another, or "
                "the classes that it knows (confirm.classes)"
            )
    seen = lineage.table(IMAGES).read(["label", "collection"])
    labels = seen.filter(pc.equal(seen["collection"], mined_collection(lineage)))["label"]
    if settings.judge is None and (unlabelled := pc.sum(pc.less(labels, 0)).as_py()):
        run.warn(
            f"confirm: {unlabelled} of {len(labels)} images have no label, and no judge says "
            "whether they show the object: they count as without it. Look at them, or name one "
            "with --set confirm.judge=CLASSIFIER"
        )
    tasks = [ClassTask(k, tuple(pictures[k])) for k in wanted]
    placement = of_stage(settings.placement, placement)
    arguments = (run, lineage, settings, placement.device)
    units = in_batches(tasks, 1, settings, lineage.parts(IMAGES))
    drop_others(run, units, *SCHEMAS, REJECTED, spec=settings)
    work_through(run, SEARCHED, units, Confirmer, arguments, placement)


class Confirmer:
    """A worker: holds the index of the mined collection, searches it for one class a call."""

    def __init__(self, run: Run, lineage: Lineage, settings: ConfirmSettings, device: str) -> None:
        """Load classifier and judge, open the index and the collection."""
        from whylens.classifiers import load_classifier

        self.run, self.settings = run, settings
        self.classifier = kept(load_classifier, str(lineage.setting("classifier")), device)
        self.judge = kept(load_classifier, settings.judge, device) if settings.judge else None
        self.head = Head.of(self.classifier)
        self.images, self.index, self.labels, self.captions = indexed(
            lineage, mined_collection(lineage), self.classifier
        )

    def __call__(self, unit: Batch[ClassTask]) -> int:
        """Search for the unit's class, write what was found; how many images fail."""
        from whylens.images.decoding import decode
        from whylens.jobs.images.pictures import measured

        (task,) = unit.tasks
        k, settings = task.class_index, self.settings
        device = self.classifier.device
        queries = np.stack(
            [
                measured(self.classifier, to_tensor(decode(one)).to(device))[0].float().cpu()
                for one in task.pictures
            ]
        )
        judged = _Judged(self, k)
        found = gather(self.index, queries, judged, count=settings.nearest, rounds=settings.rounds)
        p = self.head.probabilities(self.index.features(found.rows))
        strata = strata_of(self.labels[found.rows], best_two(p), k)
        errors = systematic_errors(self.index, found, p[:, k], strata, least=settings.least)
        key = {"class_index": k, "class_name": self.classifier.class_names[k]}
        rows: dict[str, list[dict[str, Any]]] = {
            CONFIRMED: self._confirmed(found, errors, p[:, k], judged.p),
            SYSTEMATIC: [self._error(*one, task, queries) for one in enumerate(errors)],
            SEARCHED: [
                {
                    "queries": len(queries),
                    "gathered": len(found.rows),
                    "absent": int(found.absent.sum()),
                    "failed": int(found.failed.sum()),
                    "unsure": int((found.absent & ~found.failed & (p.argmax(1) == k)).sum()),
                    "rounds": int(found.rounds.max(initial=-1)) + 1,
                    "errors": len(errors),
                    "exhausted": found.exhausted,
                }
            ],
        }
        write_unreadable(self.run, unit.name, self.images)
        for table, schema in SCHEMAS.items():  # searched last: it says that the unit is done
            some = [{**key, **row} for row in rows[table]]
            self.run.table(table).write(unit.name, pa.Table.from_pylist(some, schema=schema))
        return int(found.failed.sum())

    def _confirmed(
        self,
        found: Gathered,
        errors: Sequence[SystematicError],
        p: np.ndarray,
        p_judge: dict[int, float],
    ) -> list[dict[str, Any]]:
        of = {int(row): place for place, error in enumerate(errors) for row in error.rows}
        return [
            {
                "error": of.get(row),
                "image_id": self.index.ids[row],
                "label": int(self.labels[row]),
                "p": float(p[place]),
                "p_judge": p_judge.get(row),
                "round": int(found.rounds[place]),
            }
            for place in np.flatnonzero(found.failed)
            for row in [int(found.rows[place])]
        ]

    def _error(
        self, place: int, error: SystematicError, task: ClassTask, queries: np.ndarray
    ) -> dict[str, Any]:
        shown = error.rows[: self.settings.exemplars]
        ids = [self.index.ids[row] for row in shown]
        p = self.head.probabilities(self.index.features(shown))[:, task.class_index]
        near = most_alike(queries, self.index.features(error.rows).mean(0), SHOWN)
        return {
            "error": place,
            **told(error, self.captions),
            "looks_like": None
            if error.looks_like is None
            else self.classifier.class_names[error.looks_like],
            "generated": [task.pictures[row] for row in near],
            "exemplars": exemplars(
                self.images, ids, p.tolist(), [self._label(row) for row in shown]
            ),
        }

    def _label(self, row: int) -> str | None:
        label = self.labels[row]
        return self.classifier.class_names[label] if label >= 0 else None

    def absent(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows [n] do not show class k, and the judge's p of it, NaN where it wasn't asked.

        A label rules an image out; whatever it says, a judge may, too. An image that the judge
        can't be shown, since it can't be read any more, counts as showing the class.
        """
        without, p = self.labels[rows] != k, np.full(len(rows), np.nan)
        if self.judge is not None:
            asked = np.flatnonzero(without)
            said = self._said(rows[asked])
            names = [self.index.ids[row] for row in rows[asked]]
            own = self._own(k)
            p[asked] = [said[name][own] if name in said else np.nan for name in names]
            without[asked] = p[asked] <= self.settings.absent
        return without, p

    def others(self, k: int) -> np.ndarray:
        """The judge's p of class k of some images that it says are without it, and that are called
        something else, [m]."""
        labels, called, judged = self._some
        p = judged[:, self._own(k)]
        found: np.ndarray = p[(labels != k) & (called != k) & (p <= self.settings.absent)]
        return found

    @cached_property
    def _some(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of some images: labels [n], what each is called [n], and the judge's probabilities."""
        some = np.random.default_rng(0).permutation(len(self.labels))[:OTHERS]
        said = self._said(some)
        rows = np.array([row for row in some if self.index.ids[row] in said], np.int64)
        called = self.head.probabilities(self.index.features(rows)).argmax(1)
        return self.labels[rows], called, np.stack([said[self.index.ids[row]] for row in rows])

    def _said(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The judge's probabilities of images by row, those that can be read, by id."""
        assert self.judge is not None
        ids = [self.index.ids[row] for row in rows]
        return seen_by(self.judge, self.images, ids, self.judge.probabilities)

    def _own(self, k: int) -> int:
        """The judge's class of the name of class k."""
        assert self.judge is not None
        own = same_class(self.classifier.class_names[k], self.judge)
        assert own is not None  # or the stage would not have begun
        return own


class _Judged:
    """What a search for class k asks of rows; remembers the judge's probabilities by row."""

    def __init__(self, worker: Confirmer, k: int) -> None:
        self.worker, self.k = worker, k
        self.p: dict[int, float] = {}
        self.others = None if worker.judge is None else worker.others(k)

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        without, p = self.worker.absent(rows, self.k)
        known = np.isfinite(p)
        self.p |= dict(zip(rows[known].tolist(), p[known].tolist(), strict=True))
        called = self.worker.head.probabilities(self.worker.index.features(rows)).argmax(1)
        fails = called == self.k
        if self.others is not None:
            fails &= surely_absent(p, self.others)
        return without, fails


def run(spec: ConfirmSpec) -> Run:
    """Look for real images that fail as a run's generated ones do."""
    check_names(classifiers=[spec.confirm.judge])
    more = [Lineage(Run.open(folder)) for folder in spec.queries]
    with JOB.on_workers(spec) as (run, lineage, placement):
        confirm(run, lineage, spec.confirm, placement, queries_of(lineage, *more))
    return run


JOB = Job(
    name="confirm",
    help="Real images that fail as generated ones do.",
    spec=ConfirmSpec,
    run=run,
    tables=(REJECTED, CONFIRMED, SYSTEMATIC, SEARCHED),
    show="whylens.jobs.slices.terminal:show_systematic",
    part="whylens.jobs.report.parts.systematic:SYSTEMATIC",
)
