"""A run as the views read it: rows without pictures at once, pictures one item at a time.

What is made of tables is kept until they change, for all who look at the run; the labels are a
table of their own, so that a judgement makes nobody read the rest again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import streamlit as st

from whylens.dashboard.light import Light
from whylens.dashboard.root import Root
from whylens.jobs.labelled import LABELLED, label_tables, standing, verdicts
from whylens.jobs.report.classes import ClassSummary, load_classes
from whylens.jobs.report.data import shown_tables, whole_record
from whylens.jobs.report.page import own_page
from whylens.jobs.report.part import Part, Row, RunData
from whylens.jobs.report.parts.finding import (
    PICTURED,
    Finding,
    Key,
    bare,
    key_of,
    listed_findings,
    pictured,
    rows_of_finding,
)
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.report.tables import grouped
from whylens.runs import OpenedRun
from whylens.runs.readable import ReadableTable

logger = logging.getLogger(__name__)
Made = TypeVar("Made")
KEY = ("class_index", "component")

# Seconds for which run.json is believed.
BELIEVED = 2.0
# Seconds from which on pages do without what is still being read.
PATIENCE = 0.5
LABEL_COLUMNS = ("class_index", "class_name", "component", "label", "who", "when", "note")
# What of a component can be shown without its pictures and its lists of images.
SCALARS = (
    "class_index", "class_name", "component", "images", "variance_share", "logit_share",
    "sufficiency_share", "sufficiency_mean_p", "lift", "strata_p", "strata_p_low",
    "strata_p_high", "expected_p", "asked_p", "suspicion", "strata", "same_as", "words",
)  # fmt: skip


@lru_cache(maxsize=8)
def reading(folder: str, root: str, name: str) -> Reading:
    """The reading of a run, one for all sessions; UsageError where there is no run."""
    return Reading(OpenedRun(folder, root), root, name)


@st.cache_data(ttl=10, max_entries=16, show_spinner=False)
def runs_in(place: str) -> list[str]:
    """Names of the runs of a root, as `Root.runs` has them, listed again after ten seconds."""
    return Root.of(place).runs()


class Reading:
    """A run, read piece by piece.

    run: the run and those that it builds on
    root: where everything that is read has to be
    name: the run's in the URL, "" where the root is the run
    """

    def __init__(self, run: OpenedRun, root: str, name: str = "") -> None:
        self.run, self.root, self.name = run, root, name
        self._kept: dict[str, tuple[tuple[int, ...], Any]] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._makers: dict[str, tuple[threading.Thread, float]] = {}
        self._locking = threading.Lock()
        self._record: Mapping[str, Any] = {}
        self._record_read = -BELIEVED

    @property
    def record(self) -> Mapping[str, Any]:
        """run.json, with what the runs before it add; at most BELIEVED seconds old."""
        if time.monotonic() - self._record_read > BELIEVED:
            records = [self.run.record, *self.run.records[1:]]
            self._record, self._record_read = whole_record(records), time.monotonic()
        return self._record

    @property
    def job(self) -> str:
        """The job's name."""
        return str(self.record["job"])

    @property
    def measures(self) -> bool:
        """Whether the job has a page of its own instead of parts."""
        return own_page(self.job) is not None

    def __getitem__(self, part: Part[Row]) -> tuple[Row, ...]:
        """The rows of a part, as the report has them; findings without pictures and labels."""
        read: Callable[[Any], Any] = listed_findings if part is FINDINGS else part.read
        tables = ("findings",) if part is FINDINGS else part.tables
        rows: tuple[Row, ...] = self.kept(f"part {part.name}", tables, lambda: read(self.run))
        return rows

    def data(self, *shown: Part[Any], classes: bool = False) -> RunData:
        """What the report's functions take: the record, light rows of some parts, the classes."""
        summaries, images = (self.classes() if classes else None) or ((), {})
        return RunData(
            uri=self.run.folder,
            manifest=self.record,
            classes=summaries,
            images=images,
            rows={part.name: self.light(part) for part in shown},
            stages=frozenset(name for name in shown_tables() if self.run.has(name)),
        )

    def classes(self) -> tuple[tuple[ClassSummary, ...], Mapping[str, int]] | None:
        """The main collection's classes, and each collection's images; None: not counted yet."""
        return self.soon("classes", *self._classes)

    def components(self) -> list[dict[str, Any]]:
        """All judged components, a row each of SCALARS, with `suspicious`, by falling suspicion.

        Where no component was kept, those of the findings.
        """
        return self.kept("components", ("components", "verdicts", "findings"), self._components)

    def component(self, class_index: int, component: int) -> Finding | None:
        """A component with its pictures and labels, as a finding; None where there is none.

        Its rank is 0 where it is none of the findings.
        """
        found = self.judged().get((class_index, component))
        return None if found is None else self.pictured(found)

    def judged(self) -> Mapping[Key, Finding]:
        """All judged components by class and component, as findings without pictures and labels.

        The rank is 0 of those that are none of the findings.
        """
        return self.kept("judged", ("components", "verdicts", "findings"), self._by_key)

    def pictured(self, finding: Finding, tables: Sequence[str] = PICTURED) -> Finding:
        """The finding with its labels, and with pictures of some tables."""
        # Generated images are looked for beside; `busy` says so.
        there = [name for name in tables if name != "generated" or self.generated() is not None]
        rows = rows_of_finding(self.run, finding, there)
        rows["labels"] = self.labels().get(finding.key, [])
        return pictured(finding, rows)

    def light(self, part: Part[Row]) -> tuple[Row, ...]:
        """The rows of a part with MADE in the place of pictures: for counts and sentences."""
        if part is FINDINGS:
            return self[part]
        light = Light(self.run)
        rows: tuple[Row, ...] = self.kept(
            f"light {part.name}", part.tables, lambda: part.read(light)
        )
        return rows

    def generated(self) -> int | None:
        """How many images were generated for findings; None: not counted yet."""
        return self.soon("generated", ("generated",), self._generated)

    def warm(self) -> None:
        """Read what pages begin with, one after the other: for the first page first."""
        for make in (
            lambda: self[FINDINGS],
            lambda: self.kept("classes", *self._classes),
            self.generated,
            self.judged,
        ):
            try:
                make()
            except Exception as error:
                logger.warning("%s can't be read ahead: %s", self.run.folder, error)

    @property
    def _classes(self) -> tuple[Sequence[str], Callable[[], Any]]:
        return ("images",), lambda: load_classes(self.run)

    def _generated(self) -> int:
        if not self.run.has("generated"):
            return 0
        # With the columns by which a component's images are found: `where` goes by the same scan.
        kinds = self.run.table("generated").scan((*KEY, "kind"))
        if "kind" not in kinds.column_names:
            return len(kinds)
        return sum(kind != "start" for kind in kinds["kind"].to_pylist()) if len(kinds) else 0

    def labels(self) -> Mapping[Key, list[dict[str, Any]]]:
        """What people said, by class and component, oldest first."""
        return self.kept(
            "labels", (LABELLED,), lambda: grouped(standing(self._said()), key_of), everywhere=True
        )

    def counted(self) -> Mapping[Key, str]:
        """What each labelled component counts as: what most persons say."""
        rows = self.labels
        return self.kept(
            "counted",
            (LABELLED,),
            lambda: verdicts(row for said in rows().values() for row in said),
            everywhere=True,
        )

    def kept(
        self, name: str, tables: Sequence[str], make: Callable[[], Made], everywhere: bool = False
    ) -> Made:
        """What `make` makes of some tables, made again when one of them has changed.

        everywhere: whether the tables count in all runs, not in the nearest that has each
        """
        with self._locking:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            version = self.versions(tables, everywhere)
            if name not in self._kept or self._kept[name][0] != version:
                self._kept[name] = version, make()
            made: Made = self._kept[name][1]
            return made

    def busy(self) -> list[str]:
        """What is being read beside, by name."""
        with self._locking:
            return [name for name, (maker, _) in self._makers.items() if maker.is_alive()]

    def soon(self, name: str, tables: Sequence[str], make: Callable[[], Made]) -> Made | None:
        """As `kept`; None, while it is made beside, where that takes longer than PATIENCE.

        That is counted from its beginning: a page does not wait again for what others wait for.
        """
        if self._kept.get(name, ((),))[0] != self.versions(tables):
            with self._locking:
                maker, begun = self._makers.get(name, (None, 0.0))
                if maker is None or not maker.is_alive():
                    maker = threading.Thread(
                        target=self._try, args=(name, tables, make), name=name, daemon=True
                    )
                    begun = time.monotonic()
                    self._makers[name] = maker, begun
                    maker.start()
            maker.join(max(0.0, begun + PATIENCE - time.monotonic()))
            if maker.is_alive():
                return None
        found: Made | None = self._kept.get(name, ((), None))[1]
        return found

    def _try(self, name: str, tables: Sequence[str], make: Callable[[], Any]) -> None:
        try:
            self.kept(name, tables, make)
        except Exception as error:
            logger.warning("%s: %s can't be read: %s", self.run.folder, name, error)
            self._kept[name] = self.versions(tables), None

    def _said(self) -> Iterator[dict[str, Any]]:
        for table in label_tables(self.run):
            assert isinstance(table, ReadableTable)
            yield from table.scan(LABEL_COLUMNS).to_pylist()

    def versions(self, tables: Sequence[str], everywhere: bool = False) -> tuple[int, ...]:
        """A number a table, another when its parts have changed; `everywhere` as `kept` has it."""
        return tuple(self._version(table, everywhere) for table in tables)

    def _version(self, table: str, everywhere: bool) -> int:
        if everywhere:
            return sum(self.run.of(run, table).version() for run in self.run.runs)
        return self.run.table(table).version() if self.run.has(table) else 0

    def _components(self) -> list[dict[str, Any]]:
        if not self.run.has("components"):
            columns = [*SCALARS, "rank", "guess", "suspicious", "truth"]
            rows = self.run.arrow("findings", columns).to_pylist()
        else:
            rows = self.run.table("components").scan(SCALARS).to_pylist()
            judged = self.run.arrow("verdicts", ["class_index", "component", "suspicious"])
            suspicious = {key_of(row): row["suspicious"] for row in judged.to_pylist()}
            ranks = self.run.arrow("findings", ["class_index", "component", "rank", "suspicious"])
            ranked = {key_of(row): row for row in ranks.to_pylist()}
            for row in rows:
                found = ranked.get(key_of(row), {})
                row["rank"] = found.get("rank") or 0
                row["suspicious"] = suspicious.get(key_of(row), found.get("suspicious") or False)
        return sorted(rows, key=lambda row: (not row["suspicious"], -(row["suspicion"] or 0.0)))

    def _by_key(self) -> dict[Key, Finding]:
        ranked = {f.key: f for f in self[FINDINGS]}
        others = {key_of(row): row for row in self.components()}
        return {
            **{key: bare(row) for key, row in others.items() if key not in ranked},
            **ranked,
        }
