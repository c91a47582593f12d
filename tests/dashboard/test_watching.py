"""A job is watched by its log's lines and by links, both of which others wrote."""

import pytest

from whylens.dashboard.watching import address, told


@pytest.mark.parametrize(
    ("place", "leads_to"),
    [("10.0.0.1:8265", "http://10.0.0.1:8265"), ("https://grafana.example/d/a?b=c",) * 2,
     ("http://[::1]:8265",) * 2, ("javascript:alert(1)", None), ("data://text/html,<b>", None),
     ("javascript://a/%0aalert(1)", None), ("file:///etc/passwd", None), ("https://", None),
     ("https://user:word@grafana.example", None), ("http://a b", None), ("", None), (8265, None),
     ("http://a\n.example", None), ("http://a:port", None), (None, None)],
)  # fmt: skip
def test_links_lead_to_web_pages_alone(place: object, leads_to: str | None) -> None:
    assert address(place) == leads_to


def test_a_line_says_when_of_what_and_how_grave() -> None:
    line = {"time": "2026-11-28T01:02:03.004Z", "level": "WARNING", "message": "the unit failed",
            "stage": "embed", "unit": "000512"}  # fmt: skip
    assert told(line) == "2026-11-28 01:02:03 WARNING embed 000512: the unit failed"
    assert told({"message": "half", "level": "INFO"}).strip() == "half"
