"""Cutting a collection into units of work."""

from hypothesis import given
from hypothesis import strategies as st

from whylens.images import units


@given(st.integers(0, 3000), st.integers(1, 200))
def test_units_hold_every_record_once_in_order_and_only_the_last_is_short(
    count: int, size: int
) -> None:
    records = list(range(count))
    cut = units(count, size)
    parts = [records[part] for _, part in cut]
    assert [r for part in parts for r in part] == records
    assert all(len(part) == size for part in parts[:-1])
    assert all(parts)
    names = [name for name, _ in cut]
    assert names == sorted(names)
    assert len(set(names)) == len(names)


@given(st.integers(1, 2000), st.integers(0, 500), st.integers(1, 100))
def test_more_records_change_no_whole_unit(count: int, more: int, size: int) -> None:
    whole = count // size
    assert units(count + more, size)[:whole] == units(count, size)[:whole]


def test_units_are_named_so_that_they_sort() -> None:
    assert units(5, 2) == [
        ("000000", slice(0, 2)),
        ("000001", slice(2, 4)),
        ("000002", slice(4, 5)),
    ]
    assert units(0, 2) == []
