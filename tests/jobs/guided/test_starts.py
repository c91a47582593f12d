"""From which prompts images of a finding start: those in which the feature alone says the class."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from whylens.classifiers import Head
from whylens.classifiers.activation import SOFTMAX
from whylens.guidance.settings import ChainSettings
from whylens.jobs.guided import starts
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.prompts import names, prompts_of
from whylens.jobs.guided.starts import StartSettings
from whylens.runs import Run
from whylens.runs.lineage import Lineage

FINDING = {
    "class_index": 1,
    "class_name": "boat",
    "component": 3,
    "rank": 1,
    "guess": ["flag", "sea"],
    "mined_ids": ["a", "b", "c", "d", "e"],
}
CAPTIONS = {
    "a": "a photo of a boat with a flag",
    "b": "a photo of snow",
    "c": "a Flag on sand",
    "d": "a photo of flagstones",
    "e": "a Flag on sand",
}


def test_a_feature_with_a_name_is_drawn_without_the_class() -> None:
    plain = "a photo of a {class}"
    templates = ["a photo of {feature}", "{feature} on snow"]
    assert prompts_of(FINDING, templates, plain) == ["a photo of flag", "flag on snow"]
    assert prompts_of({**FINDING, "guess": []}, templates, plain) == ["a photo of a boat"]
    with pytest.raises(ValidationError, match="must name"):
        StartSettings(feature_templates=["a photo"])
    with pytest.raises(ValidationError, match="at least 1"):
        StartSettings(feature_templates=[])


def test_a_name_is_found_as_whole_words_only() -> None:
    assert names("Snow with a FLAG.", "flag, banner")
    assert not names("flagstones", "flag")


def test_captions_that_name_the_feature_alone_are_tried_too() -> None:
    (unit,) = starts.plan([FINDING], {(1, 3): (np.ones(3), 0.5)}, CAPTIONS, StartSettings())
    assert unit.prompts == ("a photo of flag", "a photo of a flag", "a Flag on sand")
    (unit,) = starts.plan(
        [FINDING], {(1, 3): (np.ones(3), 0.5)}, CAPTIONS, StartSettings(captions=0)
    )
    assert len(unit.prompts) == 2


@pytest.mark.parametrize(
    ("plain", "bias", "chosen"),
    [
        (0.4, 0.0, "a Flag on sand"),
        (0.75, 0.0, "a photo of a flag"),
        # Nearly as good as the best, which does not say the class: there every bit counts.
        (0.78, -5.0, "a Flag on sand"),
    ],
)
def test_the_plainest_prompt_that_says_the_class_most_is_chosen(
    plain: float,
    bias: float,
    chosen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_process: Any,
) -> None:
    brightness = {"a photo of flag": 0.2, "a photo of a flag": plain, "a Flag on sand": 0.8}

    def sample(_: Any, prompts: list[str], seeds: list[int], **__: Any) -> torch.Tensor:
        assert seeds == [0, 1]
        return torch.stack([torch.full((3, 4, 4), brightness[p]) for p in prompts])

    classifier = SimpleNamespace(
        head=Head(torch.tensor([[0.0] * 3, [1.0] * 3]), torch.tensor([0.0, bias])),
        features=lambda images: images.mean((2, 3)),
        activation=SOFTMAX,
    )

    monkeypatch.setattr("whylens.classifiers.load_classifier", lambda *_: classifier)
    monkeypatch.setattr("whylens.diffusion.load_sampler", lambda *_: None)
    monkeypatch.setattr("whylens.diffusion.sample", sample)
    monkeypatch.setattr(starts, "work_through", in_process)
    run = Run.start(str(tmp_path / "run"), "investigate", {})
    images = [{"id": name, "caption": text} for name, text in CAPTIONS.items()]
    run.table("images").write("0", pa.Table.from_pylist(images))
    found = starts.starts(
        run,
        Lineage(run),
        StartSettings(images=2),
        ChainSettings(),
        Models("s", "a"),
        [FINDING],
        {(1, 3): (np.ones(3), 0.5)},
    )
    assert found == {(1, 3): chosen}
    rows = run.table("starts").read().to_pylist()
    for row in rows:
        level = round(255 * brightness[row["prompt"]]) / 255
        assert row["alpha"] == pytest.approx(3 * level - 0.5, abs=1e-5)
        assert row["p_class"] == pytest.approx(1 / (1 + np.exp(-3 * level - bias)), abs=1e-5)
