"""Records as columns: what a tuple of records would give, in a fraction of the room."""

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whylens.images import ImageRecord, Records, open_collection

from .conftest import plain, tar

text = st.text("ab/é😀", max_size=4)
rows = st.lists(
    st.tuples(text, text, st.none() | text, st.none() | text, st.integers(0, 2**40)), max_size=20
)


def made(rows: list, root: str = "r/") -> tuple[Records, list[ImageRecord]]:
    ids, tails, classes, captions, places = zip(*rows, strict=True) if rows else [()] * 5
    records = Records(
        ids, root, tails=tails, classes=classes, captions=captions, place=(places, places)
    )
    plain = [ImageRecord(i, root + t, k, c, (p, p)) for i, t, k, c, p in rows]
    return records, plain


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows, st.integers(-25, 25), st.integers(-25, 25))
def test_records_are_a_sequence_like_any_other(rows: list, start: int, stop: int) -> None:
    records, plain = made(rows)
    assert list(records) == plain
    assert len(records) == len(plain)
    assert list(records[start:stop]) == plain[start:stop]
    assert list(records[::-1]) == plain[::-1]
    assert [records[i] for i in range(-len(plain), len(plain))] == plain + plain
    with pytest.raises(IndexError):
        records[len(plain)]
    assert list(pickle.loads(pickle.dumps(records[start:stop]))) == plain[start:stop]
    assert records.class_names() == {r.class_name for r in plain} - {None}
    assert list(records.sorted()) == sorted(plain, key=lambda r: r.id)
    some = [r.id for r in plain[::2]]
    assert records.with_ids([*some, "nobody's"]) == {r.id: r for r in plain if r.id in some}


@pytest.mark.slow
def test_a_million_records_take_little_more_than_their_ids() -> None:
    count = 200_000
    ids = [f"n{k // 1000:08d}/n{k // 1000:08d}_{k}.JPEG" for k in range(count)]
    records = Records(ids, "/data/imagenet/", classes=[i.split("/")[0] for i in ids])
    assert records._table.nbytes < sum(map(len, ids)) + 16 * count
    unit = pickle.dumps(records[100_000:100_256])
    assert len(unit) < 6_000
    assert list(pickle.loads(unit)) == list(records)[100_000:100_256]


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "planted"])
def test_a_part_of_a_collection_loads_its_own_images_elsewhere(kind: str, tmp_path: Path) -> None:
    images = {f"{k}.png": plain((k, 0, 0)) for k in range(9)}
    if kind == "folder":
        for name, content in images.items():
            (tmp_path / name).write_bytes(content)
        uri = str(tmp_path)
    elif kind == "tar":
        uri = tar(tmp_path / "a.tar", list(images.items()))
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        uri = str(tmp_path / "a.parquet")
        pq.write_table(pa.table({"image": list(images.values())}), uri, row_group_size=4)
    else:
        uri = "planted:linked?count=9"
    whole = open_collection(uri)
    part = pickle.loads(pickle.dumps(whole.part(slice(3, 6))))
    assert list(part.records) == list(whole.records)[3:6]
    for record in part.records:
        assert (part.load(record) == whole.load(record)).all()
