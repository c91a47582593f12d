"""The served pages in a real browser: what a person sees, by keys alone, and whom the page asks."""

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest

from whylens.dashboard.launch import command
from whylens.runs import Run

chromium = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(chromium is None, reason="no chromium on this machine"),
    pytest.mark.slow,
]
synthetic = runpy.run_path(str(Path(__file__).parents[1] / "jobs" / "synthetic_run.py"))
# Of the test of accessibility: npm installs it once, where the person's other caches are.
AXE = "axe-core@4.14.1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whylens" / AXE
SETTLED = "[data-testid=stApp][data-test-script-state=notRunning]"


class Served:
    """The dashboard on a root, on one port, however often it dies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            command(str(self.root), port=self.port), stdout=subprocess.DEVNULL
        )
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.5)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A root with a run that is whole, of the format of 2026-11-24 (no table says of which), one
    that is empty, one that has only begun, and one with broken files."""
    root = tmp_path_factory.mktemp("root")
    synthetic["build_run"](root / "whole")
    Run.start(str(root / "empty"), "investigate", {})
    tables = ("images", "rejected", "exemplars", "mined", "findings", "generated",
              "counterfactuals", "disagreements")  # fmt: skip
    begun = synthetic["build_run"](root / "begun", without=tables)
    fish = {"class_index": 3, "class_name": "fish", "component": 0, "suspicion": 0.4}
    synthetic["write_part"](begun, "components", [fish])
    synthetic["write_part"](begun, "verdicts", [{**fish, "suspicious": True}])
    broken = synthetic["build_run"](root / "broken")
    for table in ("mined", "counterfactuals"):
        (part,) = (broken / "tables" / table).iterdir()
        part.write_bytes(part.read_bytes()[:100])
    record = json.loads((broken / "run.json").read_text())
    (broken / "run.json").write_text(json.dumps({**record, "timings": None, "warnings": [None]}))
    found = Served(root)
    yield found
    found.process.terminate()
    found.process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def axe() -> Path:
    """axe-core's one file."""
    file = CACHE / "node_modules" / "axe-core" / "axe.min.js"
    if not file.exists():
        npm = shutil.which("npm") or pytest.skip("no npm on this machine, to install axe-core")
        line = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(CACHE), AXE]
        try:
            subprocess.run(line, check=True, capture_output=True, text=True, timeout=120)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm can't install {AXE}: {error.stderr}")
    return file


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    found = context.new_page()
    found.set_default_timeout(60_000)
    yield found
    context.close()


def settled(page: Any) -> Any:
    """The page once nothing runs any more, which shows no exception and is no wider than it is."""
    page.locator(SETTLED).wait_for()
    assert page.get_by_test_id("stException").count() == 0
    return page


def labels(run: Path) -> list[tuple[str, int, str]]:
    """Who, class and label of all rows on the disk, by time."""
    rows = [row for part in (run / "tables" / "labels").iterdir()
            for row in pq.read_table(part).to_pylist()]  # fmt: skip
    rows.sort(key=lambda row: row["when"])
    return [(row["who"], row["class_index"], row["label"]) for row in rows]


def test_the_page_shows_the_run_and_asks_no_other_host(served: Served, page: Any) -> None:
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(f"{served.url}/?run=whole")
    page.get_by_text("2 of 10 classes rely").wait_for(timeout=60_000)
    page.get_by_test_id("stSidebar").get_by_text("Findings", exact=True).click()
    page.get_by_text("sea says fish").wait_for(timeout=60_000)
    widths = page.eval_on_selector_all(".whylens img", "all => all.map(i => i.naturalWidth)")
    assert len(widths) > 12
    assert all(width > 1 for width in widths)
    assert hosts <= {"localhost", None}


def test_labels_on_the_disk_are_the_keys_pressed_though_the_server_is_killed(
    served: Served, page: Any
) -> None:
    run = served.root / "whole"

    def begin(who: str) -> None:
        """By keyboard alone: the name is the page's first field that takes a text."""
        page.goto(f"{served.url}/review?run=whole")
        field = page.get_by_label("Your name")
        field.wait_for()
        for _ in range(60):
            if field.evaluate("field => field === document.activeElement"):
                break
            page.keyboard.press("Tab")
        page.keyboard.type(who)
        page.keyboard.press("Enter")
        page.get_by_text(f"judged by {who}").wait_for()
        page.locator(".finding img").first.wait_for()
        settled(page)

    def press(key: str, done: int, who: str) -> None:
        page.keyboard.press(key)
        page.get_by_text(f"{done} of 4 judged by {who}").wait_for()
        settled(page)

    begin("Ada")
    press("s", 1, "Ada")
    press("n", 2, "Ada")
    press("z", 1, "Ada")
    press("u", 2, "Ada")
    served.kill()
    assert labels(run) == [
        ("Ada", 3, "spurious"), ("Ada", 4, "not spurious"), ("Ada", 4, "withdrawn"),
        ("Ada", 4, "unsure"),
    ]  # fmt: skip
    served.start()
    begin("Ada")
    page.get_by_text("2 of 4 judged by Ada").wait_for()
    press("s", 3, "Ada")
    before = len(labels(run))
    begin("Bob")
    page.get_by_text("0 of 4 judged by Bob").wait_for()
    press("n", 1, "Bob")
    assert labels(run)[before:] == [("Bob", 2, "not spurious")]
    begin("Ada")
    page.get_by_text("3 of 4 judged by Ada").wait_for()
    settled(page)


def test_a_key_judges_what_is_seen_as_soon_as_it_is_seen(served: Served, page: Any) -> None:
    page.goto(f"{served.url}/review?run=whole")
    page.get_by_label("Your name").fill("Eve")
    page.keyboard.press("Enter")
    title, seen = page.locator(".finding h3"), []
    title.wait_for()
    before = len(labels(served.root / "whole"))
    for key in "snu":
        seen.append(title.inner_text())
        # Twice, as a key that is held: the second is of the same component, or of none.
        page.keyboard.press(key)
        page.keyboard.press(key)
        page.wait_for_function(
            "last => document.querySelector('.finding h3').innerText !== last", arg=seen[-1]
        )
        page.wait_for_timeout(100)  # nobody sees it and presses within a frame
    page.get_by_text("3 of 4 judged by Eve").wait_for()
    address = settled(page).url
    last = title.inner_text()
    page.go_back()
    page.wait_for_function(
        "last => document.querySelector('.finding h3').innerText === last", arg=seen[-1]
    )
    page.goto(address)
    page.get_by_label("Your name").fill("Eve")
    page.keyboard.press("Enter")
    title.wait_for()
    assert title.inner_text() == last
    said = {(who, index): label for who, index, label in labels(served.root / "whole")[before:]}
    assert list(said.values()) == ["spurious", "not spurious", "unsure"]
    assert len(set(seen)) == 3


def test_every_view_has_an_address(served: Served, page: Any) -> None:
    for name in ("overview", "findings", "truth", "runs"):
        page.goto(f"{served.url}/{name}?run=whole")
        page.locator("[data-testid=stMain] :is(h1, h2, h3, .whylens)").first.wait_for()
        assert urlsplit(settled(page).url).query == "run=whole"
        assert page.get_by_text("Page not found").count() == 0, name


def test_a_row_opens_what_it_is_of(served: Served, page: Any) -> None:
    def choose(table: int, row: int) -> None:
        """Click the box of a row: tables are drawn on a canvas, in rows of 35 pixels."""
        rows = page.get_by_test_id("stDataFrame").nth(table)
        rows.locator("canvas").first.wait_for()
        settled(page)
        rows.click(position={"x": 15, "y": 35 * row + 17})

    page.goto(f"{served.url}/?run=whole")
    choose(0, 2)
    page.get_by_text("bricks says heart").wait_for()
    assert parse_qs(urlsplit(page.evaluate("location.href")).query) == {
        "run": ["whole"], "finding": ["2"]
    }  # fmt: skip
    page.goto(f"{served.url}/runs?run=whole")
    page.get_by_text("Side by side").wait_for()
    choose(1, 1)
    page.wait_for_function("!location.href.includes('run=whole')")
    settled(page)


def test_a_link_shows_what_its_sender_saw(served: Served, page: Any) -> None:
    page.goto(f"{served.url}/components?run=whole")
    page.get_by_role("button", name="Component 1").first.click()
    page.get_by_text("All components").wait_for()
    address = page.url
    key = parse_qs(urlsplit(address).query)["component"]
    title = page.locator(".finding h3").inner_text()
    page.reload()
    page.get_by_text("All components").wait_for()
    assert page.locator(".finding h3").inner_text() == title
    page.go_back()
    page.get_by_text("components of").wait_for()
    page.go_forward()
    page.get_by_text("All components").wait_for()
    assert parse_qs(urlsplit(settled(page).url).query)["component"] == key


def test_what_is_shown_is_saved(served: Served, page: Any) -> None:
    def saved(button: str) -> bytes:
        with page.expect_download() as waiting:
            page.get_by_role("button", name=button).click()
        return Path(waiting.value.path()).read_bytes()

    page.goto(f"{served.url}/findings?run=whole&finding=2")
    page.get_by_text("bricks says heart").wait_for()
    settled(page)
    rows = saved("Save 4 findings as CSV").decode().splitlines()
    assert [row.split(",")[2] for row in rows] == ["class_name", "fish", "heart", "ring", "cross"]
    assert saved("Save as PNG").startswith(b"\x89PNG")
    page.goto(f"{served.url}/counterfactuals?run=whole")
    page.get_by_role("slider").wait_for()
    settled(page)
    assert len(saved("Save as CSV").decode().splitlines()) == 7
    assert saved("Save as PNG").startswith(b"\x89PNG")


def test_a_slider_is_moved_by_keys_and_narrow_windows_cut_nothing_off(
    served: Served, page: Any
) -> None:
    page.set_viewport_size({"width": 800, "height": 900})
    page.goto(f"{served.url}/counterfactuals?run=whole")
    handle = page.get_by_role("slider")
    handle.focus()
    page.keyboard.press("End")
    above = page.locator(".stack .above")
    assert above.evaluate("image => image.style.clipPath") == "inset(0px 0% 0px 0px)"
    settled(page)
    for name in ("counterfactuals", "components?component=3-1"):
        page.goto(f"{served.url}/{name}{'&' if '?' in name else '?'}run=whole")
        page.locator(".whylens img").first.wait_for()
        settled(page)
        wide = page.evaluate(
            "() => [...document.querySelectorAll('[data-testid=stMain] *')]"
            ".filter(e => e.getBoundingClientRect().right > innerWidth + 1 && e.offsetWidth)"
            ".map(e => e.className).slice(0, 3)"
        )
        assert wide == []


@pytest.mark.parametrize("run", ["whole", "empty", "begun", "broken"])
def test_every_page_of_any_run_shows_something_and_no_exception(
    served: Served, page: Any, run: str
) -> None:
    page.goto(f"{served.url}/?run={run}")
    links = page.get_by_test_id("stSidebarNavLink")
    links.first.wait_for()
    names = [link.get_attribute("href").rpartition("/")[2] for link in links.all()]
    assert len(names) > 15
    for place, name in enumerate(names):
        links.nth(place).click()
        page.wait_for_function(
            "name => location.pathname === '/' + name", arg=name.partition("?")[0]
        )
        page.locator(
            "[data-testid=stMain] :is(h1, h2, h3, label, [data-testid=stAlert])"
        ).first.wait_for()
        settled(page)


@pytest.mark.parametrize("run", ["begun", "broken"])
def test_what_is_missing_or_broken_is_said_in_its_place(
    served: Served, page: Any, run: str
) -> None:
    for name in ("components", "counterfactuals"):
        page.goto(f"{served.url}/{name}?run={run}")
        page.locator("[data-testid=stMain] :is(h1, h2, h3, [data-testid=stAlert])").first.wait_for()
        settled(page)


def test_an_upload_that_is_no_image_is_refused_with_a_reason(served: Served, page: Any) -> None:
    page.goto(f"{served.url}/explain?run=begun")
    page.get_by_text("Your image").wait_for()
    field = page.locator("input[type=file]")
    field.set_input_files({"name": "a*b.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.get_by_text("a*b.png can't be used: not an image that Pillow can read").wait_for()
    settled(page)
    assert page.get_by_role("button", name="Load the classifier").count() == 0


def test_pages_are_accessible(served: Served, page: Any, axe: Path) -> None:
    for name in (
        "?",
        "findings?",
        "components?component=3-1&",
        "counterfactuals?",
        "disagreements?",
    ):
        page.goto(f"{served.url}/{name}run=whole")
        page.locator(".whylens img").first.wait_for()
        settled(page)
        page.add_script_tag(path=axe)
        # Of Streamlit's own frame we can change nothing: what the pages show is asked.
        found = page.evaluate(
            "() => axe.run('.whylens', {runOnly: ['wcag2a', 'wcag2aa']})"
            ".then(r => r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html]))"
        )
        assert found == [], name
