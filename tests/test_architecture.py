"""The map in ARCHITECTURE.md is drawn of this code."""

import json
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

drawing = runpy.run_path(str(Path(__file__).parent / "draw_architecture.py"))
plan, draw = drawing["house"]["plan"], drawing["draw"]
AGAIN = "the code has changed: python tests/draw_architecture.py draws the map again"


def drawn():
    """The plan that the committed drawing is of."""
    tree = ElementTree.parse(drawing["DRAWING"])
    return json.loads(tree.find("{*}metadata").text)


def shape(planned):
    """A plan without its figures."""
    return json.loads(re.sub(r'"(files|lines)": \d+', r'"\1": 0', json.dumps(planned)))


def test_the_drawing_is_of_this_code():
    drawing, code = drawn(), plan()
    assert shape(drawing) == shape(code), AGAIN
    before, now = (sum(f["lines"] for f in p["floors"]) for p in (drawing, code))
    assert before == pytest.approx(now, rel=0.1), AGAIN


def test_boxes_stand_above_what_they_import(tmp_path):
    files = {
        "kernels/one.py": "",
        "whylens/errors.py": "",
        "whylens/a/__init__.py": '"""First: a < b.\n\nMore."""',
        "whylens/a/one.py": "import whylens.errors",
        "whylens/b/one.py": "from whylens.a import one",
        "whylens/group/__init__.py": "",
        "whylens/group/c/one.py": "def f():\n    from ...b import one\n    import whylens.a.one",
        "whylens/b/inner/two.py": "x = 1\ny = 2",
        "whylens/all.py": "from whylens.group.c import one",
        "cluster/one.py": "",
        "jobs/run.py": "import whylens.all",
        "dashboard/app.py": "from whylens.jobs import run",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    planned = plan(tmp_path)
    assert planned["arrows"] == [["dashboard", "jobs"], ["jobs", "whylens"]]
    science = planned["floors"][3]
    assert science["rows"] == [["whylens/group/c"], ["whylens/b"], ["whylens/a"]]
    assert science["arrows"] == [["whylens/b", "whylens/a"], ["whylens/group/c", "whylens/b"]]
    assert (science["over"], science["under"]) == (["all"], ["errors"])
    assert science["boxes"]["whylens/a"]["about"] == "First: a < b."
    box = science["boxes"]["whylens/b"]
    assert (box["files"], box["lines"], box["inside"]) == (2, 3, ["inner"])
    words = [element.text or "" for element in ElementTree.fromstring(draw(planned)).iter()]
    assert {"a", "b", "group/c", "inner/", "First: a < b.", "errors.py"} <= set(words)
