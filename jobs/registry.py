"""The jobs: each one is a value, `JOB`, in a module of its own, and is found there.

A module of `whylens.jobs` that says `JOB = Job(...)` at its end is a job: a command with its help,
its summary on the terminal, its part of the report, its view in the dashboard. Nothing lists it.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import whylens.jobs
from whylens import logs
from whylens.errors import UsageError

if TYPE_CHECKING:
    from whylens.cluster.placement import Resources
    from whylens.jobs.spec import JobSpec
    from whylens.runs import Run
    from whylens.runs.lineage import Lineage

# Help shows what is in no room first, then the rooms as images go through them.
ROOMS = ("", "images", "findings", "guided", "measuring", "slices", "people")
VALUE = re.compile(r"^JOB = (Job\((?:.*\)$|.*?^\)))", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Job:
    """What whylens can be asked to do.

    name: the command's, and the job's in run.json
    help: one line
    spec: its settings
    run: does what is missing of a spec's run
    tables: what it writes, in that order
    show: its summary on the terminal, a function of the run and the console
    part: what the report and the dashboard show of its tables, a Part; jobs may share one
    page: writes the report.html of a job that has a page of its own, a function of the run

    The last three are "module:name", as literals: workers import a job's module, and what shows
    results should not come with it, nor a job's module with what is shown.
    """

    name: str
    help: str
    spec: type[JobSpec]
    run: Callable[[Any], Run]
    tables: tuple[str, ...]
    show: str | None = None
    part: str | None = None
    page: str | None = None

    @contextmanager
    def working(self, spec: JobSpec) -> Iterator[Run]:
        """The run of a spec, begun or gone on with, whose record says how the work inside ends.

        Raises
        ------
        UsageError
            If its source is no run, or its folder holds another run.
        """
        from whylens.runs import Run

        source = getattr(spec, "source", None)
        if source is not None:
            Run.open(source)
        run = Run.start(spec.out, self.name, spec.model_dump(mode="json"), type(spec).deciding)
        with logs.about(run=run.folder, job=self.name), run.working():
            yield run

    @contextmanager
    def on_workers(self, spec: JobSpec) -> Iterator[tuple[Run, Lineage, Resources]]:
        """As `working`, in a Ray session: the run, what it builds on, its workers' placement."""
        from whylens.cluster.room import settled
        from whylens.cluster.session import session
        from whylens.runs.lineage import Lineage

        with self.working(spec) as run, session() as ray:
            yield run, Lineage(run), settled(ray, spec.placement)


@dataclass(frozen=True)
class Listed:
    """What is known of a job before its module is imported, which takes a second or two."""

    module: str
    name: str
    help: str
    part: str | None = None
    page: str | None = None

    def job(self) -> Job:
        """The job itself."""
        job: Job = named(f"{self.module}:JOB")
        return job


def jobs() -> dict[str, Listed]:
    """All jobs by name, in order, read from the text of their modules: none is imported."""
    return dict(_jobs(tuple(whylens.jobs.__path__)))


def find(name: str) -> Job:
    """The job of that name.

    Raises
    ------
    UsageError
        If there is none.
    """
    known = jobs()
    if name not in known:
        raise UsageError(f"unknown job {name!r}; jobs: {', '.join(known)}")
    return known[name].job()


def named(place: str) -> Any:
    """What "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@cache
def _jobs(folders: tuple[str, ...]) -> dict[str, Listed]:
    found = [job for module, text in _modules(folders) if (job := _listed(module, text))]
    return {job.name: job for job in sorted(found, key=_standing)}


def _modules(folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The modules of all rooms, and their text."""
    for folder in map(Path, folders):
        for path in folder.rglob("*.py"):
            inside = path.relative_to(folder).with_suffix("").parts
            yield ".".join([whylens.jobs.__name__, *inside]), path.read_text(encoding="utf-8")


def _listed(module: str, text: str) -> Listed | None:
    """The job that a module's text holds."""
    value = VALUE.search(text)
    if value is None:
        return None
    (statement,) = ast.parse(value[1]).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    wanted = {field.name for field in fields(Listed)}
    said = {k.arg: ast.literal_eval(k.value) for k in statement.value.keywords if k.arg in wanted}
    return Listed(module=module, **said)


def _standing(job: Listed) -> tuple[int, str]:
    room = job.module.removeprefix(f"{whylens.jobs.__name__}.").rpartition(".")[0]
    return ROOMS.index(room) if room in ROOMS else len(ROOMS), job.module
