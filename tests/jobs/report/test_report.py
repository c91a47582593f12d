"""report.html: what a reader gets from a run folder, whole or partial."""

import base64
import html.parser
import json
import re
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from whylens.errors import UsageError
from whylens.jobs.report.data import load_run
from whylens.jobs.report.page import ReportSpec, flat, render, run
from whylens.jobs.report.parts.counterfactuals import COUNTERFACTUALS
from whylens.jobs.report.parts.findings import FINDINGS
from whylens.jobs.report.pictures import BLANK, picture

synthetic = runpy.run_path(str(Path(__file__).parents[1] / "synthetic_run.py"))
build_run, write_part = synthetic["build_run"], synthetic["write_part"]

TABLES = (
    "images", "rejected", "exemplars", "mined", "findings", "generated", "counterfactuals",
    "disagreements",
)  # fmt: skip


class Page(html.parser.HTMLParser):
    """The tags, ids, links and visible text of a page; fails on unclosed or crossed tags."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values["href"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(folder: Path, **settings: int) -> tuple[str, Page]:
    text = render(load_run(str(folder)), ReportSpec(run=str(folder), limits=settings))
    return text, Page(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return page_of(build_run(tmp_path_factory.mktemp("run")))


def test_the_report_tells_what_was_found(whole: tuple[str, Page]) -> None:
    page = whole[1]
    assert "2 of 10 classes rely on something that is not the object." in page.text
    assert "86% of the images that show “sea” but no fish are still called fish." in page.text
    assert "3 of the 8 links that the training images were built with were found" in page.text
    assert "with no false alarm" in page.text
    assert "Planted: sea" in page.text
    assert "Not planted, not suspected" in page.text
    assert "planted:linked?count=2000&seed=0 (120 images)" in page.text
    assert "In 4 of 6 images a small change" in page.text
    assert "the inversion did not converge" in page.text
    assert "truncated: the file ends before the picture does" in page.text
    assert "photos/a/<b>&.jpg" in page.text  # escaped in the file, shown as it is
    assert "The sampler was trained on drawings" in page.text
    assert "generate.optimisation_steps" in page.text


def test_the_report_needs_nothing_from_outside(whole: tuple[str, Page]) -> None:
    text, page = whole
    assert not re.search(r"<(?:link|iframe|object|script\s)", text)
    assert not re.search(r"https?:|url\(|@import", re.sub(r"data:[^\"]*", "", text))
    shown = [image for image in page.images if "src" in image]
    assert len(shown) > 60
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in shown)


def test_every_picture_has_words_and_every_link_a_target(whole: tuple[str, Page]) -> None:
    page = whole[1]
    assert all(image["alt"] for image in page.images if "src" in image)
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [*TABLES, "all"])
def test_a_stage_that_did_not_run_leaves_a_gap_not_an_error(tmp_path: Path, missing: str) -> None:
    folder = build_run(tmp_path, without=TABLES if missing == "all" else (missing,))
    _, page = page_of(folder, findings=1, exemplars=1, counterfactuals=1, disagreements=1)
    assert {"findings", "counterfactuals", "disagreements", "rejected"} <= set(page.ids)
    if missing in ("findings", "all"):
        assert "has not finished" in page.text


def test_no_finding_is_a_result(tmp_path: Path) -> None:
    folder = build_run(tmp_path, findings=0)
    write_part(folder, "components", [{"class_index": 0, "component": 0, "suspicion": 0.0}])
    _, page = page_of(folder)
    assert "nothing but the objects" in page.text


def test_rows_may_lack_columns_and_values(tmp_path: Path) -> None:
    folder = build_run(tmp_path, without=TABLES)
    nan = float("nan")
    write_part(folder, "findings", [
        {"rank": 1, "class_index": 3, "component": 0, "suspicion": nan, "odd_one": 0.25},
    ])  # fmt: skip
    write_part(folder, "exemplars", [{"class_index": 3, "component": 0, "image_id": "x"}])
    write_part(folder, "counterfactuals", [{"image_id": "x", "source_class": 1, "target_class": 2}])
    write_part(folder, "disagreements", [{"class_index": 3}])
    _, page = page_of(folder)
    assert "1 suspicious feature, not yet checked" in page.text
    assert "odd one 0.25" in page.text


def test_parts_are_joined_and_cut_to_what_was_asked(tmp_path: Path) -> None:
    folder = build_run(tmp_path)
    path = next((folder / "tables" / "counterfactuals").iterdir())
    write_part(folder, "counterfactuals", pq.read_table(path).to_pylist(), unit="part-1")
    _, page = page_of(folder, counterfactuals=5, findings=1)
    assert "7 more are in the table counterfactuals." in page.text
    assert "finding-1" in page.ids
    assert "finding-2" not in page.ids


def test_photos_have_no_truth(tmp_path: Path) -> None:
    _, page = page_of(build_run(tmp_path, planted=False), findings=1, counterfactuals=1)
    assert "planted world" not in page.text
    assert "Planted:" not in page.text


@pytest.mark.slow
def test_the_job_writes_the_file_and_refuses_other_folders(tmp_path: Path) -> None:
    path = run(ReportSpec(run=str(build_run(tmp_path / "run"))))
    assert Path(path) == tmp_path / "run" / "report.html"
    assert Path(path).read_text().startswith("<!doctype html>")
    with pytest.raises(UsageError, match="not a run folder"):
        run(ReportSpec(run=str(tmp_path)))
    (tmp_path / "run.json").write_text("{torn")
    with pytest.raises(UsageError, match="not JSON"):
        run(ReportSpec(run=str(tmp_path)))


def test_a_run_shows_what_it_builds_on(tmp_path: Path) -> None:
    first = build_run(tmp_path / "first", without=("counterfactuals", "generated"))
    second = build_run(tmp_path / "second", without=set(TABLES) - {"counterfactuals"})
    record = json.loads((second / "run.json").read_text())
    record |= {"spec": {"source": str(first), "sampler": "mine"}, "timings": {}, "warnings": []}
    (second / "run.json").write_text(json.dumps(record))
    data = load_run(str(second))
    assert (len(data[FINDINGS]), len(data[COUNTERFACTUALS])) == (4, 6)
    assert (data.spec["sampler"], data.spec["classifier"]) == ("mine", "planted:biased")
    assert len(data.warnings) == 1


def test_class_counts_match_the_table(tmp_path: Path) -> None:
    folder = build_run(tmp_path)
    rows = pq.read_table(folder / "tables" / "images").to_pylist()
    data = load_run(str(folder))
    for summary in data.classes:
        mine = [row for row in rows if row["class_name"] == summary.class_name]
        assert summary.images == len(mine)
        assert summary.right == sum(row["top5_classes"][0] == row["label"] for row in mine)


def test_a_picture_that_cannot_be_read_is_left_blank() -> None:
    assert picture(None) == picture(b"") == BLANK
    unreadable = base64.b64decode(picture(b"no picture").partition(",")[2]).decode()
    assert "be shown: cannot" in unreadable
    assert "identify image file" in unreadable


def test_settings_are_flattened() -> None:
    settings = json.loads('{"a": {"b": [1, 2], "c": {}}, "d": null}')
    assert flat(settings) == [("a.b", "1, 2"), ("a.c", "{}"), ("d", "none")]


def neuron_part(folder: Path, *, failed: bool = False) -> None:
    """One neuron: two words, one image lowered, seen by two classifiers."""
    picture = synthetic["encoded"](synthetic["drawing"](None, "sea", "background", 1).image)
    head = {"neuron": 62, "class_index": 3, "class_name": "fish"}
    words = [("sea", 1.75, True), ("fish", 0.5, False)]
    write_part(folder, "neuron_words", [
        {**head, "rank": 1, "share": 0.52, "word": word, "prompt": f"a photo of {word}",
         "images": [picture] * 2, "activation": level, "chosen": chosen}
        for word, level, chosen in words
    ])  # fmt: skip
    write_part(folder, "neuron_exemplars", [
        {"neuron": 62, "by": by, "place": 0, "image_id": image_id, "class_name": name,
         "activation": 2.5, "relevance": relevance, "thumb": picture}
        for by, image_id, name, relevance in (
            ("activation", "moon/1.png", "moon", -0.5), ("relevance", "fish/2.png", "fish", 1.25)
        )
    ])  # fmt: skip
    said = [("planted:biased", 0.9, 0.1), ("planted:balanced", 0.8, 0.7)]
    after = {} if failed else {
        "after": picture, "difference": picture, "activation_after": 0.25,
        "trajectory": [picture, picture], "trajectory_steps": [0, 5],
        "closest": [{"image_id": "near-1", "distance": 0.5, "thumb": picture}],
        "probabilities": [{"classifier": name, "class_name": "fish", "before": a, "after": b}
                          for name, a, b in said],
    }  # fmt: skip
    write_part(folder, "neurons", [{
        **head, "kind": "down", "place": 0, "image_id": "fish/00003.png", "word": "sea",
        "prompt": "a photo of a fish on sea", "before": picture, "activation_before": 1.5,
        "mean": 0.6, "deviation": 0.64, "failed": "not finite at step 0" if failed else None,
        **after,
    }])  # fmt: skip


def test_a_neuron_is_shown_with_its_words_and_what_became_of_the_class(tmp_path: Path) -> None:
    folder = build_run(tmp_path, without=("findings",))
    neuron_part(folder)
    text, page = page_of(folder)
    assert "What 1 neuron of the classifier responds to" in page.text
    assert "It adds 0.52 to the fish score on images that show finding 1" in page.text
    assert (
        "Lowering it in 1 real image moved the mean fish probability from 90% to 10%." in page.text
    )
    assert "planted:balanced: fish 80% → 70%" in page.text
    assert "activation: 1.50 before, 0.25 after" in text
    shown = [str(image["alt"]) for image in page.images]
    assert "Close to the result: near-1" in shown
    assert "Best image up to step 5" in shown
    assert "#neurons" in page.links
    assert shown.count("Plain image from “a photo of sea”") == 2
    assert "Real images that activate it most: moon/1.png" in shown
    assert "Real images in which it counts most: fish/2.png" in shown
    assert "2.50 · moon" in text
    assert "+1.25 · fish" in text


@pytest.mark.slow
def test_a_neurons_failed_image_says_why(tmp_path: Path) -> None:
    folder = build_run(tmp_path)
    neuron_part(folder, failed=True)
    page = page_of(folder)[1]
    assert "not finite at step 0" in page.text
    assert "neurons" in page.ids


def test_without_neurons_there_is_no_section_of_them(whole: tuple[str, Page]) -> None:
    assert "neurons" not in whole[1].ids
