"""What was planted against what was found: precision, recall, and what was missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.view import View, go_to
from whylens.jobs.report.parts.finding import Finding, verdict
from whylens.jobs.report.parts.findings import FINDINGS, truth_label
from whylens.jobs.truth import planted_truth
from whylens.jobs.words import amount, percent


@dataclass(frozen=True)
class Found:
    """The planted links (class and feature), those that were found, and the false alarms."""

    planted: Mapping[str, str]
    found: Sequence[Finding]
    false: Sequence[Finding]

    @property
    def missed(self) -> dict[str, str]:
        """The planted links of which no suspicious finding tells."""
        there = {finding.class_name for finding in self.found}
        return {name: feature for name, feature in self.planted.items() if name not in there}

    @property
    def precision(self) -> float | None:
        """Of the suspicious findings, the part that was planted; None without any."""
        alarms = len(self.found) + len(self.false)
        return len(self.found) / alarms if alarms else None

    @property
    def recall(self) -> float | None:
        """Of the planted links, the part that was found; None where none is planted."""
        if not self.planted:
            return None
        return 1 - len(self.missed) / len(self.planted)


def compared(planted: Mapping[str, str], findings: Sequence[Finding]) -> Found:
    """The suspicious findings beside the planted links."""
    alarms = [finding for finding in findings if finding.suspicious]
    return Found(planted, [f for f in alarms if f.truth], [f for f in alarms if not f.truth])


def draw(reading: Reading) -> None:
    """Found against planted."""
    st.subheader("Planted truth", anchor=False)
    spec = reading.record["spec"]
    planted = planted_truth(str(spec.get("images") or ""), str(spec.get("classifier") or ""))
    if planted is None:
        st.info("Nobody knows the truth of these images: it is known in a planted world alone.")
        return
    if not reading.run.has("findings"):
        st.info("The search for spurious features did not run or has not finished.")
        return
    seen = compared(planted, reading[FINDINGS])
    with st.container(horizontal=True):
        st.metric("Planted", len(seen.planted), width="content")
        st.metric("Found", len(seen.planted) - len(seen.missed), width="content")
        st.metric("Missed", len(seen.missed), width="content")
        st.metric("False alarms", len(seen.false), width="content")
        st.metric("Precision", percent(seen.precision), width="content")
        st.metric("Recall", percent(seen.recall), width="content")
    if seen.missed:
        st.write(f"{amount(len(seen.missed), 'link')} missed:")
        st.dataframe(
            [{"Class": name, "Planted": feature} for name, feature in seen.missed.items()],
            hide_index=True,
            key="missed",
        )
    st.write("All findings, in their order:")
    every = reading[FINDINGS]
    chosen = st.dataframe(
        [
            {
                "#": f.rank,
                "Class": f.class_name,
                "Planted": planted.get(f.class_name),
                "Seems to be": ", ".join(f.guess),
                "Verdict": verdict(f).value,
                "Truth": truth_label(f),
            }
            for f in every
        ],
        hide_index=True,
        key="against truth",
        on_select="rerun",
        selection_mode="single-row",
    )
    if rows := chosen["selection"]["rows"]:
        one = every[rows[0]]
        go_to("findings", finding=str(one.rank))


def planted_world(reading: Reading) -> bool:
    """Whether a run is of the planted world."""
    images = str(reading.record["spec"].get("images") or "")
    return not reading.measures and images.startswith("planted:")


VIEW = View(
    "truth", "Planted truth", draw, "Why", 60, ":material/fact_check:", offered=planted_world
)
