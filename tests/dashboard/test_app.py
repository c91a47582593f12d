"""The dashboard's page, driven as a person would drive it."""

import json
import runpy
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import whylens.dashboard.app
from whylens.classifiers import load_classifier
from whylens.dashboard.kept import BELIEVED
from whylens.dashboard.launch import command
from whylens.dashboard.view import literal
from whylens.runs import Run

synthetic = runpy.run_path(str(Path(__file__).parents[1] / "jobs" / "synthetic_run.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic["build_run"](tmp_path_factory.mktemp("runs") / "first")


def opened(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> AppTest:
    monkeypatch.setattr(sys, "argv", ["app.py", *([str(folder)] if folder else [])])
    app = AppTest.from_file(str(whylens.dashboard.app.__file__), default_timeout=60)
    return settled(app.run())


def settled(app: AppTest) -> AppTest:
    assert not app.exception, app.exception
    return app


def offered(app: AppTest) -> list[str]:
    return [page["page_name"].replace("_", " ") for page in app._registered_pages.values()]


def go(app: AppTest, title: str) -> AppTest:
    """Open a page by its entry in the navigation."""
    pages = {
        page["page_name"].replace("_", " "): name for name, page in app._registered_pages.items()
    }
    app._page_hash = pages[title]
    return settled(app.run())


def shown(app: AppTest) -> str:
    return " ".join(" ".join(element.proto.body for element in app.get("html")).split())


@pytest.mark.slow
def test_every_view_of_a_whole_run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    app = opened(monkeypatch, folder)
    assert "2 of 10 classes rely on something that is not the object" in shown(app)
    assert app.warning[0].value.startswith("The sampler was trained on drawings")
    assert {m.label: m.value for m in app.metric}["Counterfactuals"] == "6"
    for view, words in {
        "Findings": "<em>sea</em> says fish",
        "Counterfactuals": "arrow <span aria-hidden=\"true\">→</span>",
        "Disagreements": "second classifier",
    }.items():  # fmt: skip
        go(app, view)
        assert words in shown(app)
    go(app, "Rejected files")
    assert "not an image" in app.dataframe[0].value["Reason"].tolist()
    go(app, "Settings")
    assert "planted:biased" in app.dataframe[0].value["Value"].tolist()


@pytest.mark.slow
def test_a_neuron_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = synthetic["build_run"](tmp_path)
    app = opened(monkeypatch, folder)
    go(app, "Neurons")
    assert "whylens neurons" in app.info[0].value
    picture = synthetic["encoded"](synthetic["drawing"](None, "sea", "background", 1).image)
    head = {"class_index": 3, "class_name": "fish", "word": "sea", "prompt": "a photo of sea"}
    synthetic["write_part"](folder, "neuron_words", [
        {**head, "neuron": neuron, "rank": 1, "share": 0.5, "images": [picture],
         "activation": 1.5, "chosen": True} for neuron in (7, 62)
    ])  # fmt: skip
    app = opened(monkeypatch, folder)
    go(app, "Neurons")
    assert app.selectbox[0].options == ["7: sea raises fish", "62: sea raises fish"]
    settled(app.selectbox[0].select_index(1).run())
    assert 'id="neuron-62"' in shown(app)
    assert 'id="neuron-7"' not in shown(app)


def test_an_address_holds_filter_and_page_of_a_grid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = synthetic["build_run"](tmp_path)
    fish, *_, heart = synthetic["disagreement_rows"]()
    rows = [{**one, "prompt": f"number {i}"} for i in range(15) for one in (fish, heart)]
    synthetic["write_part"](folder, "disagreements", rows)
    monkeypatch.setattr(sys, "argv", ["app.py", str(folder)])
    app = AppTest.from_file(str(whylens.dashboard.app.__file__), default_timeout=60)
    app.query_params.update({"of": "heart", "page": "2"})
    go(settled(app.run()), "Disagreements")
    assert app.multiselect[0].value == ["heart"]
    assert app.number_input[0].value == 2
    assert [n for n in range(15) if f"number {n}”" in shown(app)] == [12, 13, 14]
    assert "fish?" not in shown(app)


def test_a_job_that_measures_shows_its_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run.start(str(tmp_path / "measured"), "evaluate", {"runs": ["a"]})
    app = opened(monkeypatch, Path(run.folder))
    assert offered(app) == ["Report", "Runs", "Settings"]
    assert "No report yet" in app.info[0].value
    run.storage.write("report.html", b"<p>measured</p>")
    app = opened(monkeypatch, Path(run.folder))
    assert not app.info
    (frame,) = app.get("iframe")
    assert "<p>measured</p>" in frame.proto.srcdoc


def test_findings_are_filtered(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    app = opened(monkeypatch, folder)
    go(app, "Findings")
    assert len(app.selectbox[0].options) == 4
    settled(app.multiselect[0].set_value(["heart"]).run())
    assert app.selectbox[0].options == ["2. heart: bricks, desert (enough on its own)"]
    assert "Finding 2" in shown(app)
    settled(app.multiselect[1].set_value(["not confirmed"]).run())
    assert app.info[0].value == "No finding passes these filters."


def test_heat_maps_can_be_hidden(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    app = opened(monkeypatch, folder)
    go(app, "Findings")
    assert "Heat map of the feature" in shown(app)
    settled(app.toggle[0].set_value(False).run())
    assert "Heat map of the feature" not in shown(app)


def test_what_is_chosen_is_what_the_address_says(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    app = opened(monkeypatch, folder)
    asked = {"of": "heart", "verdict": "enough on its own", "heat": "false", "strip": "2"}
    for name, value in asked.items():
        app.query_params[name] = value
    go(app, "Findings")
    assert app.multiselect[0].value == ["heart"]
    assert app.selectbox[0].options == ["2. heart: bricks, desert (enough on its own)"]
    assert app.toggle[0].value is False
    assert [slider.value for slider in app.slider] == [0.0, 2]
    for name in asked:
        del app.query_params[name]
    app.query_params["outcome"], app.query_params["counterfactual"] = "flipped", "3"
    go(app, "Counterfactuals")
    assert app.multiselect[2].value == ["flipped"]
    assert app.selectbox[0].value == "3"
    settled(next(button for button in app.button if button.label == "Next").click().run())
    assert app.query_params["counterfactual"] == "4"


@pytest.mark.slow
def test_counterfactuals_are_filtered_by_outcome(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    app = opened(monkeypatch, folder)
    go(app, "Counterfactuals")
    settled(app.multiselect[2].set_value(["failed"]).run())
    assert shown(app).count('class="card"') == 1


def test_a_run_that_has_only_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables = ("images", "rejected", "exemplars", "mined", "findings", "generated",
              "counterfactuals", "disagreements")  # fmt: skip
    app = opened(monkeypatch, synthetic["build_run"](tmp_path, without=tables))
    for view in offered(app):
        go(app, view)


@pytest.mark.slow
def test_a_run_that_goes_on_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    app = opened(monkeypatch, synthetic["build_run"](tmp_path, without=("counterfactuals",)))
    assert {m.label: m.value for m in app.metric}["Counterfactuals"] == "0"
    row = {"image_id": "a", "source_class": 0, "target_class": 1, "flipped": True}
    synthetic["write_part"](tmp_path, "counterfactuals", [row])
    settled(app.run())
    assert {m.label: m.value for m in app.metric}["Counterfactuals"] == "1"


def test_a_job_is_watched_by_its_log_and_by_links(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run.start(str(tmp_path), "investigate", {})
    lines = [{"message": f"line {n} <b>", "stage": stage} for n, stage in enumerate("eec")]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run.note_ray("10.0.0.1:8265")
    for unit in ("u-1", "u-2"):
        failed = {"stage": "e", "unit": unit, "reason": "no room", "time": "2026", "attempt": 1}
        synthetic["write_part"](tmp_path, "failures", [{**failed, "host": "h"}], unit)
    app = opened(monkeypatch, tmp_path)
    assert not app.error
    app.query_params["log"] = "e"
    go(app, "Runs")
    assert [line.strip() for line in app.code[0].value.splitlines()] == [
        "e: line 1 <b>", "e: line 0 <b>"
    ]  # fmt: skip
    assert {expander.label for expander in app.expander} == {
        literal("e u-1: no room"), literal("e u-2: no room")
    }  # fmt: skip
    assert not app.error
    (link,) = app.get("link_button")
    assert link.proto.url == "http://10.0.0.1:8265"
    run.note_ray("javascript://%0aalert(1)")
    time.sleep(BELIEVED)
    settled(app.run())
    assert not app.get("link_button")


@pytest.mark.slow
def test_names_are_searched_by_text(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    """The model is loaded when a button says so, and finds the one whose images share the text."""
    clip = load_classifier("planted:clip")
    words = ("sea", "night")
    texts = clip.embed_texts([f"a photo of {word}" for word in words]).numpy()
    spec = {"source": str(folder), "model": "planted:clip"}
    run = Run.start(str(tmp_path / "names"), "names", {
        **spec, "names": {"templates": ["a photo of {word}"]}
    })  # fmt: skip
    row = {"class_index": 3, "class_name": "fish", "kind": "component", "images": 8}
    run.table("pictures").write("all", pa.Table.from_pylist([
        {"collection": "main", "image_id": word, "embedding": text}
        for word, text in zip(words, texts, strict=True)
    ]))  # fmt: skip
    run.table("names").write("all", pa.Table.from_pylist([
        {**row, "number": place, "words": [word], "scores": [0.9], "common": texts.mean(0),
         "direction": text - texts.mean(0)}
        for place, (word, text) in enumerate(zip(words, texts, strict=True))
    ]))  # fmt: skip
    app = opened(monkeypatch, Path(run.folder))
    go(app, "Names")
    assert app.dataframe[0].value["Shows"].tolist() == ["sea (0.90)", "night (0.90)"]
    settled(app.text_input[0].set_value("night").run())
    assert len(app.dataframe) == 1
    (load,) = [button for button in app.button if button.label == "Load the CLIP model"]
    settled(load.click().run())
    assert app.dataframe[0].value["What"].tolist() == ["component 1", "component 0"]
    assert "image night" in shown(app)


def save(app: AppTest) -> None:
    settled(next(button for button in app.button if button.label == "Save").click().run())


@pytest.mark.slow
def test_a_judgement_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    app = opened(monkeypatch, synthetic["build_run"](tmp_path))
    go(app, "Findings")
    save(app)
    assert "Say who you are" in app.error[0].value
    app.text_input(key="who").set_value("Ada L.")
    app.button_group[0].set_value("spurious")
    save(app)
    assert not app.error, app.error
    assert "Ada L. called it spurious on" in shown(app)
    assert len(list((tmp_path / "tables" / "labels").iterdir())) == 1


@pytest.mark.slow
def test_folders_of_runs_and_wrong_folders(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    assert "run folder" in opened(monkeypatch, None).info[0].value
    assert "not a run folder" in opened(monkeypatch, tmp_path).error[0].value
    assert "not a run folder" in opened(monkeypatch, tmp_path / "nowhere").error[0].value
    for name in ("one", "two"):
        synthetic["build_run"](tmp_path / name, without=("images",))
    st.cache_data.clear()  # what was there is believed for ten seconds
    app = opened(monkeypatch, tmp_path)
    assert sorted(app.sidebar.selectbox[0].options) == ["one", "two"]


def test_nothing_is_sent_anywhere() -> None:
    line = command("runs/a", port=8600)
    assert line[line.index("--browser.gatherUsageStats") + 1] == "false"
    assert line[line.index("--server.port") + 1] == "8600"
    assert line[-2:] == ["--", "runs/a"]
    assert "--" not in command(None)
