"""The report job: a run folder as one self-contained page, report.html."""

from __future__ import annotations

import base64
import importlib
import io
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from whylens.jobs.report import words as report_words
from whylens.jobs.report.data import RunData, load_run
from whylens.jobs.words import percent
from whylens.runs import Run

logger = logging.getLogger(__name__)

# Pictures are shown at 96 to 128 CSS pixels: twice that is sharp on every screen.
SHOWN_PIXELS = 256
# Jobs that measure what others made have pages of their own, and the modules that write them.
MEASURING = {"score": "measuring.score_report", "evaluate": "measuring.evaluation_report"}


class ReportSpec(BaseModel):
    """What `whylens report` takes."""

    model_config = ConfigDict(extra="forbid")

    run: str = Field(description="Run folder: a path, or an s3:// or gs:// URI.")
    findings: int = Field(30, ge=0, description="Show this many findings in detail.")
    counterfactuals: int = Field(48, ge=0, description="Show this many counterfactuals.")
    disagreements: int = Field(48, ge=0, description="Show this many disagreements.")
    rejected: int = Field(200, ge=0, description="List this many of the rejected files.")
    exemplars: int = Field(6, ge=1, description="Show this many images in each strip.")


def run(spec: ReportSpec) -> str:
    """Write report.html into the run folder; its path. UsageError where there is no run."""
    opened = Run.open(spec.run)
    if own := MEASURING.get(opened.record()["job"]):
        return str(importlib.import_module(f"whylens.jobs.{own}").write(opened))
    return _written(opened, render(load_run(spec.run), spec))


def publish(run: Run, template: str, now: datetime | None = None, **values: Any) -> str:
    """Write report.html of a run that measures, from a template that extends measured.html.j2.

    Returns the page's path.
    """
    record = run.record()
    page = (
        environment()
        .get_template(template)
        .render(
            css=stylesheet("parts.css", "report.css"),
            warnings=record["warnings"],
            settings=flat(record["spec"]),
            written=(now or datetime.now(UTC)).strftime("%d %B %Y"),
            **values,
        )
    )
    return _written(run, page)


def _written(run: Run, page: str) -> str:
    run.storage.write("report.html", page.encode())
    path = run.storage.path("report.html")
    logger.info("wrote %s", path)
    return path


def render(data: RunData, spec: ReportSpec, now: datetime | None = None) -> str:
    """The page as text: images as data URIs, styles inside, nothing loaded from anywhere."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            spec=spec,
            css=stylesheet("parts.css", "report.css"),
            settings=flat(data.spec),
            written=(now or datetime.now(UTC)).strftime("%d %B %Y"),
        )
    )


def part(name: str, *values: Any) -> str:
    """One macro of report_parts.html.j2 as HTML: what the dashboard shows of a finding, a pair."""
    module = environment().get_template("report_parts.html.j2").module
    return str(getattr(module, name)(*values))


def environment() -> jinja2.Environment:
    """Where the templates are and what they may use."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("whylens.jobs.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["picture"] = picture
    made.filters["percent"] = percent
    made.globals.update(words=report_words, Verdict=report_words.Verdict)
    return made


def stylesheet(*names: str) -> Markup:
    """The packaged style sheets, one after the other."""
    loader = jinja2.PackageLoader("whylens.jobs.report", "templates")
    return Markup("\n".join(loader.get_source(jinja2.Environment(), name)[0] for name in names))


def picture(content: bytes | None) -> str:
    """Image bytes as a data URI, re-encoded as WebP at the size that the report shows.

    Small pictures (the planted world's 64 pixels) are enlarged by a good filter here, since
    browsers enlarge badly; unreadable bytes give an empty picture rather than no report.
    """
    if not content:
        return BLANK
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError):
        logger.warning("a picture of %d bytes can't be read and is left blank", len(content))
        return BLANK
    scale = SHOWN_PIXELS / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=86, method=2)
    return data_uri(buffer.getvalue(), "image/webp")


def data_uri(content: bytes, media_type: str) -> str:
    """The bytes as a data URI (RFC 2397)."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


BLANK = data_uri(b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>', "image/svg+xml")


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names: {"a": {"b": 1}} -> [("a.b", "1")]."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows.extend(flat(value, f"{prefix}{name}."))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append((f"{prefix}{name}", text if value is not None else "none"))
    return rows
