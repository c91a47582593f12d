"""What the README shows can be done as it stands there."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_python_example_finds_an_image_on_which_two_classifiers_differ(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    biased, balanced = map(float, re.findall(r"[\d.e-]+", capsys.readouterr().out))
    assert biased > 0.9
    assert biased - balanced > 0.2


def test_every_job_of_the_table_is_a_command() -> None:
    from whylens.jobs.cli import JOBS

    rows = re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)
    assert set(rows) == set(JOBS)
