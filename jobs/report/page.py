"""The report: a run folder as one self-contained page, report.html."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup
from pydantic import Field

from whylens.jobs.registry import jobs, named
from whylens.jobs.report import words
from whylens.jobs.report.data import load_run
from whylens.jobs.report.part import Part, RunData, limited, parts
from whylens.jobs.report.pictures import picture
from whylens.jobs.words import percent
from whylens.runs import Run
from whylens.settings import Settings

logger = logging.getLogger(__name__)


class ReportSpec(Settings):
    """What `whylens report` takes."""

    run: str = Field(description="Run folder: a path, or an s3:// or gs:// URI.")
    limits: dict[str, int] = Field(
        default_factory=dict, description="How much is shown of parts; see whylens report --help."
    )


def run(spec: ReportSpec) -> str:
    """Write report.html into the run folder; its path.

    Raises
    ------
    UsageError
        If there is no run, or no such limit.
    """
    opened = Run.open(spec.run)
    if own := own_page(opened.record()["job"]):
        return str(named(own)(opened))
    return _written(opened, render(load_run(spec.run), spec))


def own_page(job: str) -> str | None:
    """What writes the page of a job that has one of its own, "module:function"."""
    known = jobs().get(job)
    return known.page if known else None


def publish(run: Run, template: str, now: datetime | None = None, **values: Any) -> str:
    """Write report.html of a run that measures, from a template that extends measured.html.j2.

    Returns the page's path.
    """
    record = run.record()
    page = rendered(
        template,
        css=stylesheet("parts.css", "report.css"),
        warnings=record["warnings"],
        settings=flat(record["spec"]),
        written=(now or datetime.now(UTC)).strftime("%d %B %Y"),
        **values,
    )
    return _written(run, page)


def _written(run: Run, page: str) -> str:
    run.storage.write("report.html", page.encode())
    path = run.storage.path("report.html")
    logger.info("wrote %s", path)
    return path


def render(data: RunData, spec: ReportSpec, now: datetime | None = None) -> str:
    """The page as text: images as data URIs, styles inside, nothing loaded from anywhere."""
    every = parts()
    return rendered(
        "report.html.j2",
        data=data,
        parts=every,
        shown=[part for part in every if part.always or data[part]],
        limits=limited(spec.limits),
        headline=words.headline(data),
        opening=opening(data),
        css=stylesheet("parts.css", "report.css"),
        settings=flat(data.spec),
        written=(now or datetime.now(UTC)).strftime("%d %B %Y"),
    )


def opening(data: RunData) -> Markup:
    """The run in one sentence, in some sentences, in the images that say most, and its facts."""
    pictures = Markup("").join(html(part, "opening", data, part) for part in parts())
    return Markup(
        rendered(
            "opening.html.j2",
            headline=words.headline(data),
            sentences=words.summary(data),
            pictures=pictures.strip(),
            facts=words.facts(data),
        )
    )


def rendered(template: str, **values: Any) -> str:
    """A template with its values, as text."""
    return environment().get_template(template).render(**values)


def html(part: Part[Any], macro: str, *values: Any) -> Markup:
    """A macro of a part's template as HTML; nothing where the template has none."""
    made = getattr(_macros(part), macro, None)
    return Markup(made(*values)) if made else Markup("")


# A part's template with its words, by the part's name: making it takes longer than a card does.
_MADE: dict[str, tuple[Part[Any], Any]] = {}


def _macros(part: Part[Any]) -> Any:
    if part.name not in _MADE or _MADE[part.name][0] is not part:
        template = environment().get_template(part.template)
        _MADE[part.name] = part, template.make_module({"words": part.words})
    return _MADE[part.name][1]


@cache
def environment() -> jinja2.Environment:
    """Where the templates are and what they may use."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("whylens.jobs.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(picture=picture, percent=percent, fields=fields)
    made.tests["bytes"] = lambda value: isinstance(value, bytes)
    made.globals["html"] = html
    return made


def fields(row: Any) -> list[tuple[str, Any]]:
    """A row's fields by name."""
    return [(field.name, getattr(row, field.name)) for field in dataclasses.fields(row)]


def stylesheet(*names: str) -> Markup:
    """The packaged style sheets, one after the other."""
    loader = jinja2.PackageLoader("whylens.jobs.report", "templates")
    return Markup("\n".join(loader.get_source(jinja2.Environment(), name)[0] for name in names))


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
