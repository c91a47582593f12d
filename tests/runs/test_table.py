"""Tables: one part a unit, and a unit is done if and only if its part is there."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whylens.errors import UsageError, WhylensError
from whylens.runs import MissingColumnsError, Run, Storage, Table
from whylens.runs.storage import ASIDE


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    if request.param == "memory":
        yield Run.start("memory://table-test/run", "embed", {})
        fsspec.filesystem("memory").rm("/table-test", recursive=True)
    else:
        yield Run.start(f"{tmp_path}/run", "embed", {})


def rows(*values: int) -> pa.Table:
    return pa.table({"k": list(values), "name": [str(v) for v in values]})


def test_parts_are_read_together_in_the_order_of_their_units(run: Run) -> None:
    table = run.table("images")
    assert table.units() == []
    table.write("000002", rows(5))
    table.write("000000", rows(1, 2))
    table.write("000001", rows())
    assert table.units() == ["000000", "000001", "000002"]
    assert table.read().to_pydict() == {"k": [1, 2, 5], "name": ["1", "2", "5"]}
    assert table.read(["name"]).to_pydict() == {"name": ["1", "2", "5"]}
    assert table.read(("k",)).column_names == ["k"]


def test_a_unit_is_done_if_and_only_if_its_part_is_there(run: Run) -> None:
    table = run.table("images")
    assert not table.done("0")
    table.write("0", rows(1))
    assert table.done("0")
    assert not table.done("1")
    assert not run.table("others").done("0")
    system, root = fsspec.core.url_to_fs(run.folder)
    system.rm(f"{root}/tables/images/0.parquet")
    assert not table.done("0")
    assert table.units() == []


def test_a_unit_written_again_replaces_its_part(run: Run) -> None:
    run.table("images").write("0", rows(1, 2, 3))
    run.table("images").write("0", rows(9))
    assert run.table("images").read()["k"].to_pylist() == [9]


def test_parts_are_plain_parquet_where_the_design_says(tmp_path: Path) -> None:
    run = Run.start(f"{tmp_path}/run", "embed", {})
    run.table("images").write("000007", rows(1))
    there = pq.read_table(tmp_path / "run" / "tables" / "images" / "000007.parquet")
    assert there.equals(rows(1))


def test_a_table_that_was_not_written_says_whose_stage_has_not_run(run: Run) -> None:
    with pytest.raises(UsageError, match=f"{run.folder} has no table 'findings': its stage has"):
        run.table("findings").read()


def test_columns_that_are_empty_in_one_part_keep_the_type_of_the_others(run: Run) -> None:
    run.table("t").write("0", pa.table({"caption": [None, None], "p": [1, 2]}))
    run.table("t").write("1", pa.table({"caption": ["a cat"], "p": [0.5], "more": [True]}))
    read = run.table("t").read()
    assert read["caption"].to_pylist() == [None, None, "a cat"]
    assert read["p"].to_pylist() == [1.0, 2.0, 0.5]
    assert read["more"].to_pylist() == [None, None, True]


def test_what_a_killed_writer_left_is_neither_read_nor_done(tmp_path: Path) -> None:
    run = Run.start(f"{tmp_path}/run", "embed", {})
    run.table("images").write("0", rows(1))
    part = tmp_path / "run" / "tables" / "images" / "0.parquet"
    left = part.with_name(f"{ASIDE}0123-1.parquet")
    left.write_bytes(part.read_bytes()[:50])
    assert run.table("images").units() == ["0"]
    assert not run.table("images").done("1")
    assert run.table("images").read()["k"].to_pylist() == [1]


def test_workers_that_get_the_run_write_its_parts(run: Run) -> None:
    there: Run = pickle.loads(pickle.dumps(run))
    there.table("images").write("0", rows(3))
    assert run.table("images").done("0")
    assert run.table("images").read()["k"].to_pylist() == [3]


@given(
    st.dictionaries(
        st.integers(0, 999), st.lists(st.integers(-(2**40), 2**40), max_size=4), max_size=5
    )
)
@settings(max_examples=15, deadline=None)
def test_reading_gives_what_was_written_whatever_the_order(parts: dict[int, list[int]]) -> None:
    system = fsspec.filesystem("memory")
    table = Table(Storage("memory://table-any/run"), "t")
    for number, values in parts.items():
        table.write(f"{number:06d}", pa.table({"k": pa.array(values, pa.int64())}))
    if parts:
        expected = [v for _, values in sorted(parts.items()) for v in values]
        assert table.read()["k"].to_pylist() == expected
        system.rm("/table-any", recursive=True)
    assert table.units() == []


def test_a_foreign_file_among_the_parts_is_no_unit(tmp_path: Path) -> None:
    run = Run.start(f"{tmp_path}/run", "embed", {})
    run.table("images").write("0", rows(1))
    (tmp_path / "run" / "tables" / "images" / "notes.txt").write_text("mine")
    assert run.table("images").units() == ["0"]
    assert run.table("images").read()["k"].to_pylist() == [1]


class Counting:
    """A file that counts the bytes that are read of it."""

    def __init__(self, file: Any) -> None:
        self.file, self.count = file, 0

    def read(self, *size: int) -> bytes:
        content: bytes = self.file.read(*size)
        self.count += len(content)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_no_more_of_a_part_is_read_than_the_columns_that_are_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [np.random.default_rng(i).bytes(50_000) for i in range(20)]
    run.table("images").write("0", pa.table({"k": list(range(20)), "blob": blobs}))
    opened: list[Counting] = []
    whole = Storage.open

    def counted(self: Storage, name: str) -> Any:
        opened.append(Counting(whole(self, name)))
        return opened[-1]

    monkeypatch.setattr(Storage, "open", counted)
    assert run.table("images").read_part("0", ["k"])["k"].to_pylist() == list(range(20))
    assert run.table("images").read_part("0")["blob"].to_pylist() == blobs
    few, all_of_it = (file.count for file in opened)
    assert few < 80_000  # 64 kB of it is how pyarrow looks for the footer
    assert all_of_it > 1_000_000


@pytest.mark.parametrize("left", [0, 3, 200])
def test_a_damaged_part_is_named(run: Run, left: int) -> None:
    run.table("images").write("0", rows(1, 2))
    content = run.storage.read("tables/images/0.parquet")
    run.storage.write("tables/images/0.parquet", content[:left])
    with pytest.raises(WhylensError, match=r"tables/images/0\.parquet is damaged .*: remove it"):
        run.table("images").read()


def test_rows_are_read_by_key_from_the_row_groups_that_hold_them(run: Run) -> None:
    table = run.table("images")
    many = pa.table({"id": [f"n{k}" for k in range(10)], "k": list(range(10)), "more": [0] * 10})
    table.write("0", many, group=3)
    for wanted in (["n4"], ["n9", "n0"], [], ["none"], [f"n{k}" for k in range(10)]):
        rows = table.read_rows("0", "id", wanted, ["k"])
        assert rows.column_names == ["k"]
        assert rows["k"].to_pylist() == sorted(int(n[1:]) for n in wanted if n != "none")


def test_a_part_says_its_schema_and_a_later_one_is_refused(run: Run) -> None:
    run.table("images").write("0", rows(1))
    content = pq.ParquetFile(run.storage.open("tables/images/0.parquet")).schema_arrow
    assert content.metadata[b"whylens.schema"] == b"2"
    sink = pa.BufferOutputStream()
    pq.write_table(rows(1).replace_schema_metadata({"whylens.schema": "3"}), sink)
    run.storage.write("tables/images/1.parquet", sink.getvalue().to_pybytes())
    with pytest.raises(WhylensError, match=r"'images' of .* has the schema 3, .* up to 2: install"):
        run.table("images").read(["k"])


def test_a_part_of_an_older_version_is_read_or_what_it_lacks_is_said(run: Run) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(rows(1, 2), sink)
    run.storage.write("tables/images/0.parquet", sink.getvalue().to_pybytes())
    assert run.table("images").read(["k"])["k"].to_pylist() == [1, 2]
    said = r"'images' of .* has no column more, new: a whylens of the schema 1 wrote it"
    with pytest.raises(MissingColumnsError, match=said):
        run.table("images").read(["new", "k", "more"])
