"""A run as a whole in sentences: the head of the report and of the dashboard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from whylens.jobs.report.part import RunData, parts
from whylens.jobs.words import amount
from whylens.runs.lease import DEAD_AFTER
from whylens.runs.run import lacking


def headline(data: RunData) -> str:
    """The run in one sentence: of the first part that has rows, or of the first that has any."""
    able = [(part, part.headline) for part in parts() if part.headline]
    told = [headline for part, headline in able if data[part]] or [able[0][1]]
    return told[0](data)


def summary(data: RunData) -> list[str]:
    """What was found, in a few sentences."""
    return [sentence for part in parts() if data[part] for sentence in part.summary(data)]


def facts(data: RunData) -> list[tuple[str, str]]:
    """What was investigated: label and value, for the head of the report."""
    spec, manifest = data.spec, data.manifest
    second = _collection(data, spec.get("second"), "second")
    rows = [
        ("Classifier", spec.get("classifier")),
        ("Other classifiers", _listed_names(spec.get("against"))),
        ("Images", _collection(data, spec.get("images"), "main")),
        ("Searched for the feature alone", second),
        ("Sampler", spec.get("sampler")),
        ("Begun", str(manifest.get("created", ""))[:10]),
        ("Seeds", _seeds(spec)),
        ("State", standing(manifest)),
        ("Calculated on", manifest.get("arithmetic")),
    ]
    return [(label, str(value)) for label, value in rows if value not in (None, "")]


def standing(manifest: Mapping[str, Any]) -> str | None:
    """How a run that is not finished stands."""
    state = manifest.get("state")
    if state == "finished":
        return None
    if state == "failed" and manifest.get("error"):
        return f"failed: {manifest['error']}"
    if state == "incomplete":
        return "; ".join(["incomplete", *lacking(manifest)])
    last = manifest.get("heartbeat")
    if state == "running" and last and time.time() - last > DEAD_AFTER:
        since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(last))
        return f"not finished; its process was last alive at {since}: start the command again"
    return None if state is None else str(state)


def _listed_names(value: Any) -> str | None:
    """One name, or several."""
    return ", ".join(value) if isinstance(value, list) else value


def _seeds(spec: Mapping[str, Any]) -> str | None:
    """The seeds of the run's stages: one where all have the same, else each with its stage."""
    found = {
        stage: settings["seed"]
        for stage, settings in spec.items()
        if isinstance(settings, Mapping) and "seed" in settings
    }
    if len(set(found.values())) == 1:
        return str(next(iter(found.values())))
    return ", ".join(f"{stage} {seed}" for stage, seed in found.items()) or None


def _collection(data: RunData, uri: Any, name: str) -> str | None:
    if uri in (None, ""):
        return None
    count = data.images.get(name)
    return f"{uri} ({amount(count, 'image')})" if count else str(uri)
