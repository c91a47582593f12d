"""What points of the map are told apart by: every point once, in a look of its own."""

from whylens.dashboard.groups import by_class, by_suspicion
from whylens.jobs.report.parts.finding import bare


def test_the_classes_with_most_points_have_looks_of_their_own() -> None:
    names = ["a"] * 3 + [f"b{i}" for i in range(8)] + ["c"] * 2
    groups = by_class(names, range(1, 13))
    assert [group.title for group in groups[:3]] == ["4 other classes (4)", "a (2)", "c (2)"]
    assert sorted(i for group in groups for i in group.rows) == list(range(1, 13))
    assert len({(group.colour, group.shape) for group in groups}) == len(groups)


def test_suspicion_falls_into_quarters() -> None:
    rows = [{"class_index": 0, "component": i, "suspicion": s}
            for i, s in enumerate((0.1, 0.25, None, 0.74, 0.75, 1.0))]  # fmt: skip
    groups = by_suspicion([bare(row) for row in rows])
    assert [group.rows for group in groups] == [[0, 2], [1], [3], [4, 5]]
