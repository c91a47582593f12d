"""A new job is one file: toy.py, found by the command, the report and the dashboard."""

import shutil
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import whylens.dashboard.app
import whylens.jobs
from whylens.jobs.cli import main
from whylens.runs import Run


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """The file in a folder of whylens.jobs, until the test is over."""
    folder = tmp_path / "room"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "toy.py", folder)
    monkeypatch.setattr(whylens.jobs, "__path__", [*whylens.jobs.__path__, str(folder)])
    yield
    sys.modules.pop("whylens.jobs.toy", None)


def said(capsys, *words):
    """What the command says."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert not stop.value.code
    return capsys.readouterr().out


def shown(app):
    """The dashboard's HTML."""
    return " ".join(element.proto.body for element in app.get("html"))


def test_a_job_in_one_file_is_found_everywhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    help = said(capsys, "--help")
    assert "How long words are." in help
    assert "whylens.jobs.toy" not in sys.modules
    assert "Words to measure." in said(capsys, "toy", "--help")

    out = tmp_path / "run"
    words = [word for name in ("ox", "giraffe", "hen") for word in ("--words", name)]
    assert "toys: 1 unit" in said(capsys, "toy", *words, "--out", out)
    assert Run.open(str(out)).record()["job"] == "toy"

    assert "Show this many words. [default: 2]" in said(capsys, "report", "--help")
    said(capsys, "report", out)
    page = (out / "report.html").read_text()
    assert "<h1>3 words were measured.</h1>" in page
    assert '<a href="#toys">Toy words <b>3</b></a>' in page
    assert "The longest word is giraffe." in page
    assert "1 more are in the table toys." in page
    assert "hen" not in page[page.index('id="toys"') : page.index('id="rejected"')]
    said(capsys, "report", out, "--toys", 3)
    assert "hen" in (out / "report.html").read_text()

    monkeypatch.setattr(sys, "argv", ["app.py", str(out)])
    app = AppTest.from_file(str(whylens.dashboard.app.__file__), default_timeout=60).run()
    assert "3 words were measured" in shown(app)
    pages = {one["page_name"].replace("_", " "): p for p, one in app._registered_pages.items()}
    app._page_hash = pages["Toy words"]
    app.run()
    assert not app.exception, app.exception
    assert "giraffe" in shown(app)
