"""What things show in words, and what shows any other words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from whylens.dashboard.kept import Reading
from whylens.dashboard.loading import allowed
from whylens.dashboard.saving import save_csv
from whylens.dashboard.view import View, bound, panel
from whylens.dashboard.views.drawing import strip, table
from whylens.jobs.people.evidence import thumbs
from whylens.jobs.report.exported import plain_rows
from whylens.jobs.report.parts.names import NAMES
from whylens.jobs.slices.by_text import Answer, model_of, search
from whylens.jobs.words import plain_name

if TYPE_CHECKING:
    from whylens.classifiers.zero_shot import ZeroShotClassifier

# Things and images that a text finds.
FOUND = 12


def draw(reading: Reading) -> None:
    """A search by text, and below it what was named."""
    st.subheader(NAMES.title, anchor=False)
    rows, name = reading[NAMES], model_of(reading.run)
    if not rows:
        st.info(NAMES.empty(reading.data()))
        return
    text = st.text_input("Search by text", placeholder="water", **bound("text")).strip()
    if text and name is None:
        st.info("Named by an earlier version, which kept nothing to search: run names again.")
    elif text and name is not None and allowed(name, "CLIP model"):
        with panel():
            _found(reading, search(reading.run, _model(name), text, FOUND))
    save_csv(NAMES.name, lambda: plain_rows(rows))
    st.write(NAMES.sentence(rows))
    table(
        [
            {
                "Class": plain_name(one.class_name),
                "What": f"{one.kind} {one.number}",
                "Shows": one.name,
                "Images": one.images,
            }
            for one in rows
        ]
    )


def _found(reading: Reading, answer: Answer) -> None:
    table(
        [
            {
                "Class": plain_name(one.class_name),
                "What": f"{one.kind} {one.number}",
                "Is named": ", ".join(one.words),
                "Cosine": round(one.score, 2),
            }
            for one in answer.things
        ]
    )
    pictures = {
        tag: thumbs(reading.run, [one.id for one in answer.images if one.collection == tag], tag)
        for tag in {one.collection for one in answer.images}
    }
    strip(
        [
            (pictures[one.collection].get(one.id), f"image {one.id}", f"{one.score:.2f}")
            for one in answer.images
        ]
    )
    st.caption("Images are those by which things were named.")


@st.cache_resource(show_spinner="Loading the CLIP model", max_entries=2)
def _model(name: str) -> ZeroShotClassifier:
    from whylens.jobs.slices.names import loaded

    return loaded(name)


VIEW = View(NAMES.name, NAMES.title, draw, "Pictures", NAMES.place, ":material/label:")
