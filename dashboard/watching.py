"""A job from outside: what it logged last, and where else it can be watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from whylens.dashboard.entry import secret
from whylens.dashboard.kept import Reading
from whylens.dashboard.view import bound, literal
from whylens.runs.log import last_lines

# Lines of the log that are shown, and what stands for those of no stage.
LINES, EVERY = 100, "every stage"


def log(reading: Reading) -> None:
    """The last lines of the job's log, of a stage or of all."""
    lines = last_lines(reading.run.runs[0].storage)
    if not lines:
        return
    stages = sorted({str(line["stage"]) for line in lines if "stage" in line})
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.markdown("##### Its log", width="stretch")
        stage = st.selectbox("Lines of", [EVERY, *stages], **bound("log"), width=220)
    shown = [line for line in lines if stage in (EVERY, line.get("stage"))][-LINES:]
    text = "\n".join(map(told, reversed(shown)))
    st.code(text, language=None, wrap_lines=True, height=320)
    st.caption(f"The last {len(shown)} lines of the process that leads the job, the newest first.")


def told(line: Mapping[str, Any]) -> str:
    """A line of the log as text: when, how grave where it is, of what, and what."""
    when = str(line.get("time", ""))[:19].replace("T", " ")
    level = "" if line.get("level") in (None, "INFO") else f"{line['level']} "
    message = str(line["message"])
    about = " ".join(str(line[name]) for name in ("stage", "unit") if name in line)
    if message.startswith(about):  # progress says of which stage it is
        about = ""
    trace = f"\n{line['traceback']}" if "traceback" in line else ""
    return f"{when} {level}{f'{about}: ' if about else ''}{message}{trace}"


def links(record: Mapping[str, Any]) -> None:
    """Links to Ray's dashboard and to Grafana, as secrets.toml or the run's record names them."""
    ray = secret("ray") or (record.get("ray") if record["state"] == "running" else None)
    named = {"Ray's dashboard": ray, "Grafana": secret("grafana")}
    found = [(name, url) for name, place in named.items() if (url := address(place))]
    if not found:
        return
    with st.container(horizontal=True):
        for name, url in found:
            label = literal(f"{name} at {urlsplit(url).netloc}")
            st.link_button(label, url, icon=":material/open_in_new:", type="tertiary")


def address(place: object) -> str | None:
    """What a link may lead to: an http or https URL with a host; HOST:PORT is one without a scheme.

    None: it is none, and may be anything that a browser does with a link, running it included.
    """
    if not isinstance(place, str) or not place.isprintable() or " " in place:
        return None
    url = place if "://" in place else f"http://{place}"
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return url if whole and parts.username is None else None
