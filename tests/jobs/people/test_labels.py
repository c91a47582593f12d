"""Judging components from the command line and in Python; the list as JSON."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from whylens.errors import UsageError
from whylens.jobs.cli import main
from whylens.jobs.labelled import by_time, label_home
from whylens.jobs.people.labels import (
    Named,
    add_label,
    find_component,
    import_labels,
    spurious_components,
)
from whylens.runs import Run
from whylens.runs.lineage import Lineage

NAMES = {1: "fish, sea fish", 4: "crane", 7: "crane", 12: "Great Dane"}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A run with three components in each of four classes."""
    run = Run.start(str(tmp_path / "run"), "components", {"out": str(tmp_path / "run")})
    rows = [
        {"class_index": k, "class_name": name, "component": component}
        for k, name in NAMES.items()
        for component in range(3)
    ]
    run.table("components").write("all", pa.Table.from_pylist(rows))
    return run.folder


def say(folder: str, views: str, k: int = 1, component: int = 0) -> None:
    """Judgements one second apart: 'ada:spurious bob:unsure'."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for second, view in enumerate(views.split()):
        who, _, label = view.partition(":")
        when = start + timedelta(seconds=second)
        named = Named(k, NAMES[k], component)
        add_label(folder, named, label.replace("-", " "), who, now=when)


@pytest.mark.parametrize(
    ("views", "spurious"),
    [
        ("ada:spurious", True),
        ("ada:spurious ada:not-spurious", False),
        ("ada:not-spurious bob:spurious ADA:spurious", True),
        ("ada:spurious bob:not-spurious", False),
        ("ada:spurious bob:unsure", True),
        ("ada:spurious bob:spurious eve:not-spurious", True),
        ("ada:spurious bob:not-spurious eve:not-spurious", False),
        ("ada:spurious ada:unsure", False),
        ("ada:spurious ada:withdrawn", False),
        ("ada:spurious ada:not-spurious ADA:withdrawn", True),
        ("ada:spurious ada:unsure ada:withdrawn ada:withdrawn", False),
        ("ada:withdrawn ada:spurious bob:withdrawn", True),
    ],
)
def test_the_latest_of_each_person_counts_and_then_the_majority(
    folder: str, views: str, spurious: bool
) -> None:
    say(folder, views)
    assert spurious_components(folder) == ({1: [0]} if spurious else {})


def test_order_is_by_time_in_any_time_zone_and_order_of_writing(folder: str) -> None:
    named = find_component(folder, "fish", 2)
    late = datetime.fromisoformat("2026-01-01T10:00:00+00:00")
    early = datetime.fromisoformat("2026-01-01T11:30:00+05:00")
    add_label(folder, named, "spurious", "Ada", now=late)
    add_label(folder, named, "not spurious", "Ada", now=early)
    assert spurious_components(folder) == {1: [2]}


def test_labels_of_the_runs_before_count_back_to_that_of_the_components(
    folder: str, tmp_path: Path
) -> None:
    say(folder, "ada:spurious")
    later = Run.start(str(tmp_path / "later"), "exemplars", {"source": folder}).folder
    say(later, "bob:spurious", k=12)
    assert spurious_components(later) == {1: [0], 12: [0]}
    assert spurious_components(folder) == {1: [0]}
    other = Run.start(str(tmp_path / "other"), "components", {"source": folder})
    other.table("components").write("all", Run.open(folder).table("components").read())
    assert spurious_components(other.folder) == {}


def test_the_command_adds_lists_exports_and_imports(
    folder: str, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["labels", *words])
        assert not stop.value.code
        out: str = capsys.readouterr().out
        return out

    assert "Nobody" in run("list", folder)
    run("add", folder, "sea fish", "2", "spurious", "--who", "Ada", "--note", "always water")
    run("add", folder, "12", "0", "not-spurious", "--who", "Ada")
    listed = run("list", folder)
    for words in (("fish (1)", "2", "spurious", "Ada", "always water"), ("Great Dane (12)",)):
        assert any(all(word in line for word in words) for line in listed.splitlines())
    file = tmp_path / "list.json"
    assert "1 spurious" in run("export", folder, str(file))
    assert json.loads(file.read_text()) == {"1": [2]}
    file.write_text('{"great_dane": [1, 0], "7": [2], "1": []}')
    assert "3 components" in run("import", folder, str(file), "--who", "the authors")
    assert "imported from list.json" in run("list", folder)
    # Ada says that (12, 0) is not: a tie is no yes.
    assert spurious_components(folder) == {1: [2], 7: [2], 12: [1]}
    run("export", folder, str(file))
    assert json.loads(file.read_text()) == {"1": [2], "7": [2], "12": [1]}


def test_everything_unknown_in_a_list_is_named_at_once_and_nothing_is_written(
    folder: str, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "list.json"
    file.write_text('{"fish": [0, 9, 31], "3": [0], "zebra": [1], "crane": [0], "12": [1]}')
    with pytest.raises(SystemExit) as stop:
        main(["labels", "import", folder, str(file), "--who", "Ada"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    for part in ("9, 31 of the class 'fish'", "'3'", "'zebra'", "'crane'; it may be 4 or 7"):
        assert part in message
    assert not Run.open(folder).table("labels").units()
    with pytest.raises(UsageError, match="component 3 of the class '1'"):
        import_labels(folder, {1: [3]}, "Ada")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not JSON"),
        ("[1, 2]", "not of the shape"),
        ('{"fish": 3, "4": [0.5], "7": [true], "12": [-1]}', "'fish', '4', '7', '12'"),
    ],
)
def test_a_file_that_is_no_list_is_explained(
    folder: str, tmp_path: Path, capsys: Any, text: str, why: str
) -> None:
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["labels", "import", folder, str(file), "--who", "Ada"])
    assert stop.value.code == 2
    assert why in capsys.readouterr().err
    assert not Run.open(folder).table("labels").units()


def test_labels_are_at_home_where_the_components_are(tmp_path: Path) -> None:
    parent = Run.start(str(tmp_path / "parent"), "components", {})
    parent.table("components").write("class-0", pa.table({"class_index": [0], "component": [1]}))
    child = Run.start(str(tmp_path / "child"), "generate", {"source": parent.folder})
    home = label_home(Lineage(child)).folder
    add_label(home, Named(0, "fish", 1), "spurious", "Ada")
    assert spurious_components(parent.folder) == {0: [1]}
    assert spurious_components(child.folder) == {0: [1]}
    assert not child.table("labels").units()


def test_a_date_that_is_none_comes_first(tmp_path: Path) -> None:
    rows = [{"when": "2026-01-01", "label": "b"}, {"when": "yesterday", "label": "a"}]
    assert [row["label"] for row in by_time(rows)] == ["a", "b"]
