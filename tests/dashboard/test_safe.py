"""What others wrote, asked or sent: shown as it is, or refused."""

import io
from pathlib import Path

import pytest
from PIL import Image

from whylens.dashboard.origin import own
from whylens.dashboard.root import Root
from whylens.dashboard.view import literal
from whylens.dashboard.views.page import framed
from whylens.errors import UsageError
from whylens.jobs.report.pictures import picture


@pytest.mark.parametrize(
    ("origin", "host", "answered"),
    [(None, b"localhost:8501", True), (b"http://localhost:8501", b"localhost:8501", True),
     (b"http://localhost:9999", b"localhost:8501", False), (b"null", b"localhost:8501", False),
     (b"http://evil.example", b"localhost:8501", False),
     (b"http://a@localhost:8501", b"localhost:8501", False),
     (b"https://runs.example", b"runs.example", True), (b"", b"", False)],
)  # fmt: skip
def test_only_its_own_pages_are_answered(origin: bytes | None, host: bytes, answered: bool) -> None:
    headers = {b"host": host} if origin is None else {b"host": host, b"origin": origin}
    assert own(headers) is answered


def test_an_allowed_origin_is_answered() -> None:
    headers = {b"host": b"a", b"origin": b"https://b.example"}
    assert own(headers, frozenset(["https://b.example"]))


@pytest.mark.parametrize(
    "name", ["..", ".", "a/b", "../a", "%2e%2e", "a\\b", "s3:", "a\0b", "/etc"]
)
def test_a_run_is_named_by_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name"):
        Root.of(str(tmp_path)).folder(name)


@pytest.mark.parametrize("place", ["nosuchscheme://a/b", "/nowhere/at/all", "~nobody-there/x"])
def test_a_root_that_is_none_is_said(place: str) -> None:
    with pytest.raises(UsageError):
        Root.of(place)


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs").mkdir()
    assert Root.of("~/runs").place == str(tmp_path / "runs")


@pytest.mark.parametrize(
    "text",
    ["![x](http://evil.example/p.png)", "[a](javascript:alert(1))", "<b onclick=x>", "https://evil.example",
     "www.evil.example", "a@evil.example", "*bold* _it_ `c` $x$ :red[r] :material/home:"],
)  # fmt: skip
def test_text_from_data_is_shown_letter_by_letter(text: str) -> None:
    shown = literal(text)
    assert shown.replace("\\", "") == text
    for mark in "*_`$[]<>!(":
        assert shown.count(mark) == shown.count(f"\\{mark}")
    assert "p://" not in shown
    assert "www.e" not in shown


def test_a_foreign_report_runs_nothing_and_shares_no_origin() -> None:
    page = framed('<script>parent.document.title = "mine"</script><a title="&quot;">')
    assert "<iframe sandbox title" in page
    assert "allow-" not in page
    assert "default-src 'none'" in page
    assert 'srcdoc="<script>parent.document.title = &quot;mine&quot;' in page


def test_a_picture_that_is_too_large_is_not_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    shown = picture(buffer.getvalue())
    assert shown.startswith("data:image/svg+xml;base64,")
