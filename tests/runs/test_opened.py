"""A run opened to be read: whole, growing, broken, or leading out of its root."""

import json
import runpy
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import whylens
from whylens.errors import UsageError, WhylensError
from whylens.runs import OpenedRun, Run
from whylens.runs.confined import OutsideError, inside
from whylens.runs.readable import ROW, UNIT

synthetic = runpy.run_path(str(Path(__file__).parents[1] / "jobs" / "synthetic_run.py"))
write_part = synthetic["write_part"]


def begun(folder: Path, **record: object) -> Path:
    folder.mkdir(parents=True)
    whole = {"format": 1, "job": "investigate", "state": "finished", "spec": {}, **record}
    (folder / "run.json").write_text(json.dumps(whole))
    return folder


def rows(k: int, count: int = 2) -> list[dict[str, object]]:
    return [{"class_index": k, "component": 0, "place": i, "thumb": b"x"} for i in range(count)]


def test_findings_components_and_images_are_frames(tmp_path: Path) -> None:
    run = whylens.open_run(str(synthetic["build_run"](tmp_path / "run")))
    found = run.findings()
    assert found["class_name"].tolist() == ["fish", "heart", "ring", "cross"]
    assert "mined_ids" not in found or found["mined_ids"].dtype == object
    assert len(run.images()) == 120
    assert not {"thumb", "features"} & set(run.frame("exemplars"))
    assert len(run.components()) == 0
    assert run.parquet("mined", str(tmp_path / "mined.parquet")) == 24
    assert pq.read_table(tmp_path / "mined.parquet")["thumb"][0].as_py()[:4] == b"RIFF"
    assert "planted:biased" in run._repr_html_()
    assert run.problems == []


def test_components_carry_their_verdicts(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    key = [{"class_index": 0, "component": c} for c in (0, 1)]
    write_part(tmp_path / "run", "components", [{**k, "lift": 1.0} for k in key], "class-000000")
    write_part(tmp_path / "run", "verdicts", [
        {**k, "q_value": 0.5, "suspicious": k["component"] == 1} for k in key
    ])  # fmt: skip
    assert whylens.open_run(str(tmp_path / "run")).components()["suspicious"].tolist() == [
        False,
        True,
    ]


class Dataset:
    """FiftyOne's, as far as its documentation says what it takes; samples are kept as they come."""

    def __init__(self, name: str | None = None, persistent: bool = False) -> None:
        self.name, self.persistent, self.saved = name, persistent, False
        self.samples: list[SimpleNamespace] = []
        self.kinds: dict[str, type] = {}
        self.info: dict[str, object] = {}
        self.app_config = SimpleNamespace(media_fields=["filepath"])

    def add_samples(self, samples: Iterable[SimpleNamespace]) -> None:
        for sample in samples:
            for field, value in vars(sample).items():
                # A field is of the type of its first value that is not None.
                if value is not None:
                    assert type(value) is self.kinds.setdefault(field, type(value)), field
            self.samples.append(sample)

    def save(self) -> None:
        self.saved = True


class Classification(SimpleNamespace):
    def __init__(self, label: str, confidence: float | None = None) -> None:
        super().__init__(label=label, confidence=confidence)


def sample(
    filepath: str, tags: list[str] | None = None, metadata: object = None, **fields: object
) -> SimpleNamespace:
    assert not {"id", "created_at", "last_modified_at"} & set(fields)
    assert not any(name.startswith("_") for name in fields)
    return SimpleNamespace(filepath=filepath, tags=tags or [], **fields)


def test_findings_are_a_dataset_of_fiftyone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(Dataset=Dataset, Sample=sample, Classification=Classification)
    monkeypatch.setitem(sys.modules, "fiftyone", library)
    folder = synthetic["build_run"](tmp_path / "run")
    torn = folder / "tables" / "mined" / "torn.parquet"
    torn.write_bytes(b"PAR1")
    run = whylens.open_run(str(folder))
    made = run.to_fiftyone(str(tmp_path / "files"), "demo")
    assert (made.name, made.saved, made.info) == ("demo", True, {"whylens run": str(folder)})
    assert made.app_config.media_fields == ["filepath", "heatmap_path"]
    # Six exemplars and six mined images of each finding, four generated of which one failed.
    tags = Counter(one.tags[0] for one in made.samples)
    assert tags == {"exemplar": 24, "without the object": 24, "generated": 15}
    assert str(torn) in run.problems[0]
    suspicious = {one.says.label for one in made.samples if "suspicious" in one.tags}
    assert suspicious == {"fish", "heart", "ring"}
    rows = {
        row["image_id"]: row for row in pq.read_table(torn.parent / "part-0.parquet").to_pylist()
    }
    for one in made.samples:
        assert Path(one.filepath).is_absolute()
        if "without the object" in one.tags:
            row = rows[one.image_id]
            assert Path(one.filepath).read_bytes() == row["thumb"]
            assert Path(one.filepath).suffix == ".webp"
            assert one.says.confidence == row["p_class"]
            assert Path(one.heatmap_path).read_bytes() == row["heatmap"]


def test_without_fiftyone_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    run = whylens.open_run(str(begun(tmp_path / "run")))
    with pytest.raises(WhylensError, match="pip install fiftyone"):
        run.to_fiftyone(str(tmp_path / "files"))


def test_a_damaged_part_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    for k in range(3):
        write_part(folder, "exemplars", rows(k), f"finding-{k}")
    torn = folder / "tables" / "exemplars" / "finding-1.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    run = OpenedRun(str(folder))
    assert run.table("exemplars").scan(("class_index",))["class_index"].to_pylist() == [0, 0, 2, 2]
    assert run.table("exemplars").where({"class_index": 1, "component": 0}) is None
    (problem,) = run.problems
    assert str(torn) in problem
    # Made anew, it is read.
    write_part(folder, "exemplars", rows(1), "finding-1b")
    torn.unlink()
    assert len(run.table("exemplars").scan(("class_index",))) == 6
    assert run.problems == []


@pytest.mark.parametrize("near", [None, 0, 2, 7])
def test_rows_are_found_by_their_key(tmp_path: Path, near: int | None) -> None:
    folder = begun(tmp_path / "run")
    for k in range(5):
        write_part(folder, "exemplars", rows(k, 3), f"finding-{k}")
    table = OpenedRun(str(folder)).table("exemplars")
    found = table.where({"class_index": 3, "component": 0}, ("place",), near=near)
    assert found["place"].to_pylist() == [0, 1, 2]
    assert table.where({"class_index": 9, "component": 0}, near=near) is None
    write_part(folder, "exemplars", rows(9, 1), "finding-5")
    assert len(table.where({"class_index": 9, "component": 0}, near=near)) == 1


def test_a_key_may_stand_in_several_parts_and_among_others(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    for unit in ("a", "b"):
        write_part(folder, "generated", [*rows(1, 1), *rows(2, 2)], unit)
    table = OpenedRun(str(folder)).table("generated")
    assert len(table.where({"class_index": 2, "component": 0})) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("spec", None), ("spec", [1]), ("warnings", {"a": 1}), ("timings", "long"), ("undone", [2]),
     ("heartbeat", "now"), ("driver", "me"), ("state", None), ("job", 3)],
)  # fmt: skip
def test_a_record_of_another_shape_is_read_as_far_as_it_goes(
    tmp_path: Path, name: str, value: object
) -> None:
    run = OpenedRun(str(begun(tmp_path / "run", **{name: value})))
    assert run.setting("classifier") is None
    assert "run" in run._repr_html_()


@pytest.mark.parametrize("content", ["null", "[1]", "{", '"text"', '{"format": 99}'])
def test_what_is_no_record_is_said(tmp_path: Path, content: str) -> None:
    folder = begun(tmp_path / "run")
    (folder / "run.json").write_text(content)
    with pytest.raises(UsageError, match=r"run\.json"):
        OpenedRun(str(folder))


def test_nothing_outside_of_the_root_is_read(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", tmp_path / "secret"
    write_part(begun(secret), "findings", [{"rank": 1, "class_index": 0, "component": 0}])
    inner = begun(root / "run", spec={"source": str(secret)})
    run = OpenedRun(str(inner), str(root))
    assert len(run.runs) == 1
    assert not run.has("findings")
    assert "outside" in run.problems[0]
    for way in (secret, root / ".." / "secret"):
        with pytest.raises(OutsideError):
            OpenedRun(str(way), str(root))
    (root / "link").symlink_to(secret)
    with pytest.raises(OutsideError):
        OpenedRun(str(root / "link"), str(root))
    part = inner / "tables" / "findings" / "part-0.parquet"
    part.parent.mkdir(parents=True)
    part.symlink_to(secret / "tables" / "findings" / "part-0.parquet")
    again = OpenedRun(str(inner), str(root))
    with pytest.raises(WhylensError, match="outside"):
        again.findings()


@pytest.mark.parametrize(
    "place",
    ["s3://other/runs/a", "s3://bucket/runs/../secret", "s3://bucket/runs2", "http://bucket/runs/a",
     "s3://bucket/runs/%2e%2e/secret", "file:///etc", "/etc", "simplecache::s3://bucket/runs/a"],
)  # fmt: skip
def test_urls_stay_below_their_root(place: str) -> None:
    assert not inside(place, "s3://bucket/runs")
    assert not inside(place, "/srv/runs")
    assert inside("s3://bucket/runs/a", "s3://bucket/runs")


def test_sources_that_lead_back_are_said(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", spec={"source": str(tmp_path / "run")})
    assert "lead back" in OpenedRun(str(folder)).problems[0]


def test_a_table_without_rows_is_empty(tmp_path: Path) -> None:
    run = OpenedRun(str(begun(tmp_path / "run")))
    assert run.arrow("findings") == pa.table({})
    assert len(run.findings()) == 0


def test_a_table_may_have_units_and_rows_of_its_own(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    table = OpenedRun(str(tmp_path / "run")).of(Run(str(tmp_path / "run")), "failures")
    for parts in ("a", "ab", "abc"):
        write_part(tmp_path / "run", "failures", [{"unit": "task", "row": 7}] * 2, parts[-1])
        found = table.scan(("unit", "row"))
        assert set(found["unit"].to_pylist()) == {"task"}
        assert set(found["row"].to_pylist()) == {7}
        assert found[UNIT].to_pylist() == [part for part in parts for _ in range(2)]
        assert found[ROW].to_pylist() == [0, 1] * len(parts)
