"""The site: pages that link to each other and to nothing else, and open without a server."""

import csv
import html
import re
import runpy
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from whylens.errors import UsageError
from whylens.jobs.report.site import SiteSpec, run
from whylens.runs import Run

synthetic = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_run.py"))
build_run, write_part = synthetic["build_run"], synthetic["write_part"]
chromium = shutil.which("chromium")

OWN = "document.title='owned'"
HOSTILE = {
    "class_name": f"<script>{OWN}</script>",
    "guess": [f'"><img src=x onerror="{OWN}">', 'src="data:image/png;base64,AAAA"'],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose first finding's names are HTML."""
    folder = build_run(tmp_path_factory.mktemp("run"))
    (part,) = (folder / "tables" / "findings").iterdir()
    first, *others = pq.read_table(part).to_pylist()
    write_part(folder, "findings", [{**first, **HOSTILE}, *others])
    out = tmp_path_factory.mktemp("site")
    assert run(SiteSpec(run=str(folder), out=str(out), limits={"findings": 3})) == str(
        out / "index.html"
    )
    return out


def addresses(page: Path) -> list[str]:
    """What a page links to and loads."""
    found = re.findall(r'<[a-z][^>]*? (?:href|src)="([^"]*)"', page.read_text())
    return [html.unescape(one) for one in found]


def test_every_link_and_picture_is_there_and_of_the_site(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert [page.stem for page in pages] == [
        "counterfactuals", "disagreements", "finding-1", "finding-2", "finding-3", "index",
        "method", "rejected",
    ]  # fmt: skip
    seen = {page.stem: addresses(page) for page in pages}
    assert {one for found in seen.values() for one in found if not (site / one).is_file()} == set()
    assert {"finding-1.html", "finding-2.html", "finding-3.html"} <= set(seen["index"])
    assert {"finding-1.html", "finding-3.html", "index.html"} <= set(seen["finding-2"])
    texts = [page.read_text() for page in pages] + [(site / "style.css").read_text()]
    assert not any(re.search(r"https?:|data:image/webp|url\(|@import|//", t) for t in texts)


def test_a_picture_is_stored_once_however_often_it_is_shown(site: Path) -> None:
    shown = {page.stem: [a for a in addresses(page) if a.startswith("pictures/")]
             for page in site.glob("*.html")}  # fmt: skip
    # Six exemplars and six mined images with a heat map each, four pairs of which one failed.
    assert len(shown["finding-2"]) == 2 * 12 + 2 * 3
    assert set(shown["index"]) <= {one for page in shown if page != "index" for one in shown[page]}
    stored = {f"pictures/{path.name}" for path in (site / "pictures").iterdir()}
    assert stored == {one for found in shown.values() for one in found}


def test_what_is_not_shown_is_said_and_is_in_the_csv(site: Path) -> None:
    assert "1 more are in the table findings." in (site / "index.html").read_text()
    with (site / "findings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class_name"] for row in rows] == [HOSTILE["class_name"], "heart", "ring", "cross"]
    assert [row["verdict"] for row in rows][1:3] == [
        "enough on its own", "pulls, rarely enough alone"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(chromium is None, reason="no chromium on this machine")
def test_it_opens_from_the_disk_and_shows_names_letter_by_letter(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto((site / "index.html").as_uri())
        assert page.title() == "Findings · whylens"
        assert HOSTILE["class_name"] in page.locator("a.card").first.inner_text()
        page.locator("a.card").first.click()
        page.locator("article.finding").wait_for()
        assert HOSTILE["guess"][0] in page.locator("article.finding h3").inner_text()
        page.eval_on_selector_all("main img", "all => all.forEach(i => i.loading = 'eager')")
        page.wait_for_load_state("networkidle")
        widths = page.eval_on_selector_all("main img", "all => all.map(i => i.naturalWidth)")
        assert len(widths) > 20
        assert min(widths) > 1
        page.locator("main .tile img").first.click()
        assert page.locator("dialog[open] img").count() == 1
        assert page.title() != "owned"
        browser.close()
    assert said == []
    assert all(url.startswith(site.as_uri()) for url in asked)


def test_a_run_without_findings_has_a_site_that_says_so(tmp_path: Path) -> None:
    tables = ("findings", "exemplars", "mined", "generated", "counterfactuals", "disagreements")
    folder = build_run(tmp_path / "run", without=tables)
    run(SiteSpec(run=str(folder), out=str(tmp_path / "site")))
    assert "has not finished" in (tmp_path / "site" / "index.html").read_text()
    assert not list((tmp_path / "site").glob("finding-*"))


def test_a_run_that_measures_has_no_site(tmp_path: Path) -> None:
    measured = Run.start(str(tmp_path / "run"), "score", {})
    with pytest.raises(UsageError, match="whylens report"):
        run(SiteSpec(run=measured.folder, out=str(tmp_path / "site")))
