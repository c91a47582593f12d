"""A part of the report: what is shown of one kind of result, on the page and everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field, create_model

from whylens.jobs.registry import jobs, named
from whylens.jobs.report.classes import ClassSummary
from whylens.jobs.spec import make_spec
from whylens.runs.lineage import Lineage
from whylens.settings import Settings

# The part that every job has.
FAILURES = "whylens.jobs.report.parts.failures:FAILURES"

Row = TypeVar("Row")


@dataclass(frozen=True)
class Limit:
    """How much of a part the page shows: an option of `whylens report`."""

    name: str
    default: int
    help: str
    least: int = 0


@dataclass(frozen=True)
class Pair:
    """An image before and after, what the pair is called, and the number that changed, in words."""

    title: str
    before: bytes
    after: bytes
    change: str


@dataclass(frozen=True)
class Use(Generic[Row]):
    """A row of the figure: pairs of the images that did what was asked of them."""

    title: str
    what: str
    pairs: Callable[[tuple[Row, ...]], Iterable[Pair]]
    place: int = 50


@dataclass(frozen=True)
class Part(Generic[Row]):
    """What is shown of one kind of result, a row each.

    name: its anchor, and its view in the dashboard
    title: its heading
    tables: those that it is read from
    read: its rows, of a run and what the run builds on; a table may be missing
    place: where its section stands, lower is earlier
    always: whether there is a section without rows, which says why
    empty: what stands there then
    sentence: what the rows come to
    headline, summary: the run in one sentence, and in a few, where the part has rows
    limits: how much of it is shown
    template: has the macro body(rows, part, limits); may have opening(data, part), pictures for
        the head of the page, and terms(), what its words mean; by default a table of the rows
    words: what the template calls beside that, as words.NAME
    use: its row of the figure
    """

    name: str
    title: str
    tables: tuple[str, ...]
    read: Callable[[Lineage], tuple[Row, ...]]
    place: int = 50
    always: bool = False
    empty: Callable[[RunData], str] = lambda data: "Nothing: the job did not run."
    sentence: Callable[[tuple[Row, ...]], str] = lambda rows: ""
    headline: Callable[[RunData], str] | None = None
    summary: Callable[[RunData], list[str]] = lambda data: []
    limits: tuple[Limit, ...] = ()
    template: str = "table.html.j2"
    words: Mapping[str, Any] = field(default_factory=dict)
    use: Use[Row] | None = None


@dataclass(frozen=True)
class RunData:
    """Everything that is shown of a run; `data[part]` are the rows of a part.

    `images` counts each collection's, `stages` are the tables that there are.
    """

    uri: str
    manifest: Mapping[str, Any]
    classes: tuple[ClassSummary, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    stages: frozenset[str] = frozenset()

    def __getitem__(self, part: Part[Row]) -> tuple[Row, ...]:
        return self.rows.get(part.name, ())

    @property
    def spec(self) -> Mapping[str, Any]:
        """The settings that the run was started with."""
        spec = self.manifest.get("spec")
        return spec if isinstance(spec, Mapping) else {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the run wants its reader to know."""
        return tuple(str(warning) for warning in self.manifest.get("warnings") or ())


def limited(asked: Mapping[str, int]) -> dict[str, int]:
    """How much is shown, by the limits' names: what is asked for, else each limit's default.

    Raises
    ------
    UsageError
        For a limit that no part has, or a number below the least.
    """
    return make_spec(limits(), asked).model_dump()


def limits() -> type[BaseModel]:
    """The limits of all parts as settings."""
    found: dict[str, Any] = {
        one.name: (int, Field(one.default, ge=one.least, description=one.help))
        for part in parts()
        for one in part.limits
    }
    return create_model("Limits", __base__=Settings, **found)


def parts() -> list[Part[Any]]:
    """The parts of all jobs and that of what failed, in the order of the page."""
    names = dict.fromkeys([FAILURES, *(job.part for job in jobs().values() if job.part)])
    found: list[Part[Any]] = [named(name) for name in names]
    return sorted(found, key=lambda part: part.place)
