"""Buttons that save what is shown: made when somebody clicks, not when the page is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from whylens.jobs.drawing import png
from whylens.jobs.report.card import Card, drawn
from whylens.jobs.report.exported import as_csv


def save_csv(
    name: str, rows: Callable[[], Sequence[Mapping[str, Any]]], label: str = "Save as CSV"
) -> None:
    """A button that saves rows as NAME.csv."""
    _save(label, f"{name}.csv", "text/csv", lambda: as_csv(rows()))


def save_png(name: str, card: Callable[[], Card]) -> None:
    """A button that saves a card as NAME.png."""
    _save("Save as PNG", f"{name}.png", "image/png", lambda: png(drawn(card())))


def _save(label: str, file: str, kind: str, content: Callable[[], bytes]) -> None:
    st.download_button(
        label,
        content,
        file,
        kind,
        key=f"save {file}",
        icon=":material/download:",
        type="tertiary",
        on_click="ignore",
    )
