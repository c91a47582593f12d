"""The runs of the root: how they stand, what works on them now, and two of them side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from whylens.dashboard.kept import Reading, reading, runs_in
from whylens.dashboard.root import Root
from whylens.dashboard.view import View, bound, literal, panel, show_run
from whylens.dashboard.views.overview import duration
from whylens.dashboard.watching import links, log
from whylens.jobs.report.parts.failures import FAILURES
from whylens.jobs.report.parts.finding import Finding
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.report.words import standing
from whylens.jobs.words import amount, percent
from whylens.runs.run import at_work

# Seconds between looks at a run that somebody works on, and lines of a traceback that are shown.
LOOKS, TAIL = 5, 30


def draw(shown: Reading) -> None:
    """How this run stands, all runs, and a second one beside this."""
    st.subheader("This run", anchor=False)
    # Nothing changes in a run that nobody works on.
    live = at_work(shown.record) is not None or shown.record["state"] == "running"
    st.fragment(_standing, run_every=LOOKS if live else None)(shown)
    root = Root(shown.root)
    names = runs_in(root.place)
    with panel():
        _every(root, names)
    others = [name for name in names if name != shown.name]
    if others:
        st.subheader("Side by side", anchor=False)
        beside = st.selectbox("Beside this run", others, index=None, **bound("beside"))
        if beside:
            with panel():
                _compare(shown, reading(root.folder(beside), root.place, beside))


def _standing(shown: Reading) -> None:
    """State, progress, the last failures."""
    record = shown.record
    with st.container(horizontal=True):
        st.metric("Job", literal(record["job"]), width="content")
        st.metric("State", literal(state(record)), width="content")
        st.metric("Time taken", duration(record["timings"]), width="content")
        if beat := record.get("heartbeat"):
            st.metric("Last sign of life", f"{ago(time.time() - beat)} ago", width="content")
    if (told := standing(record)) and told != state(record):
        st.write(literal(told))
    progress = record.get("progress")
    if isinstance(progress, Mapping) and progress.get("units"):
        done, units = int(progress.get("done") or 0), int(progress["units"])
        left = progress.get("seconds_left")
        words = f"{progress.get('stage')}: {done:,} of {units:,} units"
        if isinstance(left, int | float) and left > 0:
            words += f", about {ago(left)} left"
        st.progress(min(done / units, 1.0), literal(words))
    links(record)
    with panel():
        log(shown)
    with panel():
        counts = {name: len(shown.run.table(name).units()) for name in shown.run.tables()}
        st.dataframe(
            [
                {"Table": name, "Parts": parts, "Seconds": record["timings"].get(name)}
                for name, parts in counts.items()
            ],
            hide_index=True,
            key="parts",
        )
        _failures(shown)


def _failures(shown: Reading) -> None:
    failed = shown[FAILURES]
    if not failed:
        return
    st.write(literal(FAILURES.sentence(failed)))
    rows = shown.run.table("failures").scan(("stage", "unit", "time", "reason", "traceback"))
    last = sorted(rows.to_pylist(), key=lambda row: str(row.get("time")))[-3:]
    for row in reversed(last):
        with st.expander(literal(f"{row['stage']} {row['unit']}: {row['reason']}")):
            tail = str(row.get("traceback") or row["reason"]).splitlines()[-TAIL:]
            st.code("\n".join(tail), language=None)


def state(record: Mapping[str, Any]) -> str:
    """A run's state in a word or two; "not finished" where its process is gone."""
    if record["state"] == "running" and at_work(record) is None:
        return "not finished"
    return str(record["state"])


def ago(seconds: float) -> str:
    """Seconds in the largest unit that fits."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _every(root: Root, names: Sequence[str]) -> None:
    """All runs of the root, a row each, that opens the one that is chosen."""
    if len(names) < 2:
        return
    st.subheader(f"{amount(len(names), 'run')} in {literal(root.place)}", anchor=False)
    rows = []
    for name in names:
        try:
            one = reading(root.folder(name), root.place, name)
            record = one.record
        except Exception as error:
            rows.append({"Run": name, "State": f"can't be read: {error}"})
            continue
        rows.append(
            {
                "Run": name,
                "Job": record["job"],
                "State": state(record),
                "Begun": str(record.get("created") or "")[:16],
                "Took": duration(record["timings"]),
                "Classifier": str(record["spec"].get("classifier") or ""),
                "Images": str(record["spec"].get("images") or ""),
            }
        )
    rows.sort(key=lambda row: row.get("Begun", ""), reverse=True)

    def opened() -> None:
        for place in st.session_state["runs"]["selection"]["rows"]:
            show_run(rows[place]["Run"])

    st.dataframe(rows, hide_index=True, key="runs", on_select=opened, selection_mode="single-row")


def compare(before: Sequence[Finding], after: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings of two runs by class and first word: which came, went, or moved.

    Without words a finding is known by its component's number.
    """

    def known(findings: Sequence[Finding]) -> dict[tuple[str, str], Finding]:
        named = {}
        for one in reversed(findings):
            word = one.guess[0] if one.guess else f"component {one.component}"
            named[one.class_name, word] = one
        return named

    here, there = known(before), known(after)
    rows = []
    for key in dict.fromkeys([*here, *there]):
        a, b = here.get(key), there.get(key)
        if a and b:
            change = "the same" if a.rank == b.rank else "moved"
        else:
            change = "went" if a else "came"
        rows.append(
            {
                "Class": key[0],
                "Seems to be": key[1],
                "Change": change,
                "Rank here": a.rank if a else None,
                "Rank there": b.rank if b else None,
                "Suspicion here": a.suspicion if a else None,
                "Suspicion there": b.suspicion if b else None,
            }
        )
    return sorted(rows, key=lambda row: (row["Rank here"] or 10**9, row["Rank there"] or 10**9))


def _compare(here: Reading, there: Reading) -> None:
    facts = []
    for label, name in (("Classifier", "classifier"), ("Images", "images"), ("Second", "second")):
        pair = [str(one.record["spec"].get(name) or "") for one in (here, there)]
        facts.append({"": label, "Here": pair[0], "There": pair[1]})
    shares = []
    for one in (here, there):
        judged = [s for s in (one.classes() or ((),))[0] if s.right is not None]
        seen = sum(s.images for s in judged)
        shares.append(percent(sum(s.right or 0 for s in judged) / seen) if seen else "?")
    facts.append({"": "Accuracy", "Here": shares[0], "There": shares[1]})
    facts.append(
        {"": "Findings", "Here": str(len(here[FINDINGS])), "There": str(len(there[FINDINGS]))}
    )
    st.dataframe(facts, hide_index=True, key="facts")
    rows = compare(here[FINDINGS], there[FINDINGS])
    counts = {change: sum(row["Change"] == change for row in rows) for change in
              ("the same", "moved", "came", "went")}  # fmt: skip
    st.write(", ".join(f"{count} {change}" for change, count in counts.items() if count) + ".")
    st.dataframe(rows, hide_index=True, key="changes")


VIEW = View("runs", "Runs", draw, "Run", 80, ":material/list:", offered=lambda shown: True)
