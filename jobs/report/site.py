"""A run as a site: pages with their pictures beside them, for any web server or a folder."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup
from pydantic import Field

from whylens.errors import UsageError
from whylens.jobs.labelled import label_rows
from whylens.jobs.report.data import data_of
from whylens.jobs.report.exported import as_csv, finding_rows
from whylens.jobs.report.page import flat, html, opening, own_page, rendered, stylesheet
from whylens.jobs.report.part import RunData, limited, parts
from whylens.jobs.report.parts.finding import (
    Finding,
    key_of,
    listed_findings,
    pictured,
    rows_of_finding,
)
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.report.tables import grouped
from whylens.runs import OpenedRun, Storage
from whylens.settings import Settings

# What the filter `picture` makes of a picture: no text gets there, since its quotes are escaped.
SOURCE = re.compile(r'src="data:image/([a-z]+)(?:\+xml)?;base64,([A-Za-z0-9+/=]*)"')


class SiteSpec(Settings):
    """What `whylens site` takes."""

    run: str = Field(description="Run folder: a path, or an s3:// or gs:// URI.")
    out: str = Field(description="Folder to write, its index.html and what that links to.")
    limits: dict[str, int] = Field(
        default_factory=dict, description="How much is shown of parts; see whylens site --help."
    )


@dataclass(frozen=True)
class Page:
    """A page of the site: NAME.html, what it is called, and what it shows."""

    name: str
    title: str
    content: Markup


def run(spec: SiteSpec) -> str:
    """Write the site into its folder, over one that is there; the path of its first page.

    Raises
    ------
    UsageError
        If there is no run, its job has a page of its own, or there is no such limit.
    """
    opened = OpenedRun(spec.run)
    if own_page(opened.record["job"]):
        raise UsageError(
            f"{spec.run} is a run of {opened.record['job']}, which has no findings: "
            f"whylens report {spec.run} writes its page"
        )
    limits = limited(spec.limits)
    data = read(opened, limits["findings"])
    site = Storage(spec.out)
    shelf = Shelf(site)
    site.write("style.css", stylesheet("parts.css", "report.css", "site.css").encode())
    site.write("findings.csv", as_csv(finding_rows(data[FINDINGS])))
    places = navigation(data)
    for page in pages(data, limits):
        text = rendered("site.html.j2", page=page, places=places)
        site.write(f"{page.name}.html", shelf.emptied(text).encode())
    return site.path("index.html")


def read(run: OpenedRun, most: int) -> RunData:
    """A run with the pictures of its first findings only: others may be many thousands."""
    said = grouped(label_rows(run), key_of)
    findings = tuple(
        pictured(one, {**rows_of_finding(run, one), "labels": said.get(one.key, [])})
        if place < most
        else one
        for place, one in enumerate(listed_findings(run))
    )
    rows = {part.name: part.read(run) for part in parts() if part is not FINDINGS}
    return data_of(run, {**rows, FINDINGS.name: findings})


def navigation(data: RunData) -> list[tuple[str, str, int | None]]:
    """The pages that each page links to: name, title, and how many rows it shows."""
    others = [part for part in parts() if part is not FINDINGS and data[part]]
    return [
        ("index", FINDINGS.title, len(data[FINDINGS])),
        *((part.name, part.title, len(data[part])) for part in others),
        ("method", "Method and settings", None),
    ]


def pages(data: RunData, limits: Mapping[str, int]) -> Iterator[Page]:
    """All pages: the first, one of each finding that is shown, of each part, and of the method."""
    shown = data[FINDINGS][: limits["findings"]]
    yield Page(
        "index",
        "Findings",
        _made("site_index.html.j2", data=data, opening=opening(data), shown=shown, part=FINDINGS,
              page_of=page_of, written=datetime.now(UTC).strftime("%d %B %Y")),
    )  # fmt: skip
    for place, finding in enumerate(shown):
        near = {
            "Previous": shown[place - 1] if place else None,
            "Next": shown[place + 1] if place + 1 < len(shown) else None,
        }
        article = html(FINDINGS, "article", finding, limits["exemplars"])
        yield Page(
            page_of(finding),
            f"{finding.class_name}, finding {finding.rank}",
            _made("site_finding.html.j2", article=article, near=near, page_of=page_of),
        )
    for part in parts():
        if part is not FINDINGS and data[part]:
            body = html(part, "body", data[part], part, limits)
            yield Page(part.name, part.title, _made("site_part.html.j2", part=part, body=body))
    method = _made("method.html.j2", parts=parts(), data=data, settings=flat(data.spec))
    yield Page("method", "Method and settings", method)


def page_of(finding: Finding) -> str:
    """The name of a finding's page."""
    return f"finding-{finding.rank}"


def _made(template: str, **values: Any) -> Markup:
    return Markup(rendered(template, **values))


class Shelf:
    """The site's pictures, each a file by its content's hash that is written once."""

    def __init__(self, site: Storage) -> None:
        self._site = site
        self._there: set[str] = set()

    def emptied(self, page: str) -> str:
        """The page with links to files in the place of the pictures that it holds."""
        return SOURCE.sub(self._linked, page)

    def _linked(self, found: re.Match[str]) -> str:
        content = base64.b64decode(found[2])
        name = f"pictures/{hashlib.blake2b(content, digest_size=12).hexdigest()}.{found[1]}"
        if name not in self._there:
            self._site.write(name, content)
            self._there.add(name)
        return f'loading="lazy" src="{name}"'
