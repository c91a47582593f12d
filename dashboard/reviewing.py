"""A reviewer's sitting: who it is, which component is shown, and what the keys do."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import streamlit as st

from whylens.dashboard.entry import person
from whylens.dashboard.kept import Reading
from whylens.dashboard.view import literal
from whylens.errors import WhylensError
from whylens.jobs.labelled import LABELLED, WITHDRAWN, label_home
from whylens.jobs.people.labels import add_label
from whylens.jobs.report.parts.finding import Finding, Key


def reviewer() -> str:
    """Who judges: the signed-in user where there is one, else the name that is typed; "" nobody.

    Once a name is typed its field goes, so that keys are judgements and no more letters of it.
    """
    if name := person():
        st.caption(f"Signed in as {literal(name)}")
        return name
    if known := str(st.session_state.get("reviewer", "")):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Judging as **{literal(known)}**", width="content")
            st.button("Somebody else", type="tertiary", on_click=_nobody)
        return known
    typed = st.text_input("Your name", key="name", placeholder="Ada", max_chars=80)
    if name := " ".join((typed or "").split()):
        st.session_state["reviewer"] = name
        st.rerun()
    return ""


def _nobody() -> None:
    st.session_state.pop("reviewer", None)


def write_label(reading: Reading, one: Finding, label: str, who: str, note: str = "") -> str | None:
    """Write a label to the run that holds the components; what went wrong, or None."""
    home = label_home(reading.run)
    try:
        add_label(home.folder, one, label, who, note)
        reading.run.of(home, LABELLED).look_again()
    except (WhylensError, OSError) as error:
        return f"The label was not written: {error}"
    return None


@dataclass
class Sitting:
    """Where a reviewer is in a run: kept between reruns.

    at: the component that is shown
    told: the one that the address names, as far as it was written from here
    past: those shown before it
    done: those that were judged here, the last at the end
    skipped: those passed over
    problem: why the last label was not written
    """

    at: Key | None = None
    told: Key | None = None
    past: list[Key] = field(default_factory=list)
    done: list[Key] = field(default_factory=list)
    skipped: set[Key] = field(default_factory=set)
    problem: str | None = None

    def waiting(self, left: Sequence[Finding]) -> list[Finding]:
        """What is left to judge, the skipped at the end."""
        return sorted(left, key=lambda one: one.key in self.skipped)

    def follow(self, asked: Key | None, known: Container[Key]) -> None:
        """Show what the address names, where a link, a reload or Back has changed it."""
        if asked is not None and asked != self.told and asked in known:
            self.at = asked

    def leave(self) -> None:
        """Go on to what is next in the queue."""
        if self.at is not None:
            self.past.append(self.at)
        self.at = None

    def back(self) -> None:
        """Show what was shown before."""
        if self.past:
            self.at = self.past.pop()

    def skip(self) -> None:
        """Pass the component over, until all others are judged."""
        if self.at is not None:
            self.skipped.add(self.at)
            self.leave()

    def judge(self, reading: Reading, one: Finding, label: str, who: str) -> None:
        """Write the label of what was looked at, then go on from there.

        A key that comes twice is a second judgement of that component, not of the next one.
        """
        self.problem = write_label(reading, one, label, who)
        if self.problem is None and self.at == one.key:
            self.done.append(one.key)
            self.skipped.discard(one.key)
            self.leave()

    def undo(self, reading: Reading, known: Mapping[Key, Finding], who: str) -> None:
        """Take back the last label of this sitting, and show its component."""
        if not self.done:
            return
        self.problem = write_label(reading, known[self.done[-1]], WITHDRAWN, who)
        if self.problem is None:
            self.at = self.done.pop()
            if self.past and self.past[-1] == self.at:
                self.past.pop()
