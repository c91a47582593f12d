"""What the README shows can be done as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from whylens.classifiers import load_classifier

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_python_example_finds_an_image_on_which_two_classifiers_differ(
    capsys: pytest.CaptureFixture[str],
) -> None:
    exec(compile(EXAMPLES[0], "README.md", "exec"), {})
    biased, balanced = map(float, re.findall(r"[\d.e-]+", capsys.readouterr().out))
    assert biased > 0.9
    assert biased - balanced > 0.2


def test_the_spufix_example_repairs_a_classifier_and_saves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(EXAMPLES[1], "README.md", "exec"), names)
    k, images = names["k"], names["images"]
    change = names["fixed"].logits(images) - names["base"].logits(images)
    assert (change[:, k] < 1e-4).all()
    assert change[:, k].min() < -0.01
    loaded = load_classifier("spufix:fix.safetensors")
    assert torch.equal(loaded.logits(images), names["fixed"].logits(images))


def test_the_spec_for_stable_diffusion_is_one() -> None:
    from whylens.jobs.investigate import InvestigateSpec
    from whylens.jobs.spec import make_spec, read_yaml

    settings = read_yaml(str(Path(__file__).parents[1] / "docs" / "stable-diffusion.yaml"))
    spec = make_spec(InvestigateSpec, {**settings, "images": "photos", "out": "runs/photos"})
    assert spec.generate is not None
    assert spec.counterfactuals is not None
    assert spec.counterfactuals.guidance.editing.inversion == "null_text"
    assert spec.counterfactuals.guidance.optimiser.stop_below is None
    for guidance in (spec.generate.guidance, spec.counterfactuals.guidance):
        views = guidance.views
        assert (guidance.chain.steps, views.cutouts, views.predictions) == (20, 16, 3)


@pytest.mark.parametrize("file", sorted((ROOT / "docs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_spec_of_the_docs_is_one(file: Path) -> None:
    from whylens.jobs.investigate import InvestigateSpec
    from whylens.jobs.spec import make_spec, read_yaml

    settings = {"images": "photos", "out": "runs/photos", **read_yaml(str(file))}
    spec = make_spec(InvestigateSpec, settings)
    said = file.read_text()
    assert f"--spec {file.relative_to(ROOT)}" in said
    if "turbo" in file.stem or file.stem == "lcm":
        for stage in (spec.generate, spec.disagreements, spec.counterfactuals):
            assert stage is not None
            assert stage.guidance.chain.steps <= 4
        assert spec.counterfactuals is not None
        assert spec.counterfactuals.guidance.editing.inversion == "noised"


def test_every_job_of_the_table_is_a_command() -> None:
    from whylens.jobs.registry import jobs

    rows = re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)
    assert set(rows) == set(jobs())
