"""The generation stages: which images are made, and that each row tells of its own picture."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from whylens.classifiers import Head
from whylens.cluster.placement import Placement
from whylens.errors import UsageError
from whylens.guidance.optimiser import Solution
from whylens.jobs import counterfactuals, disagreements, generate
from whylens.jobs.counterfactuals import CounterfactualSpec
from whylens.jobs.disagreements import DisagreementSpec
from whylens.jobs.generate import GenerateSpec
from whylens.runs import Run

NAMES = ("fish, sea fish", "heart", "ring")


class MeanColour:
    """A classifier whose features are the mean red, green and blue, and whose head is fixed."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.class_names = names
        rows = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [1, 1, 1]])[: len(names)]
        self.head = Head(rows, torch.arange(len(names)) / 10)

    def class_index(self, name: str) -> int:
        for index, names in enumerate(self.class_names):
            if name in (names, str(index), *names.split(", ")):
                return index
        raise UsageError(f"no class {name!r}")

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


@dataclass
class Call:
    """What the optimiser was asked."""

    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


def picture(seed: int) -> torch.Tensor:
    return torch.rand((3, 8, 8), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def optimiser(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Replace the networks and the optimiser by ones whose results are known."""
    call = Call()
    sampler = SimpleNamespace(device=torch.device("cpu"), image_size=8)

    def solution(seed: int) -> Solution:
        if seed == 9:
            return Solution(failed="not finite at step 0")
        return Solution(picture(seed + 100), picture(seed), [2.0, 1.0], 1)

    def optimise(sampler: Any, problems: Any, objective: Any, settings: Any) -> list[Solution]:
        call.prompts += [problem.prompt for problem in problems]
        call.seeds += [problem.seed for problem in problems]
        return [solution(problem.seed) for problem in problems]

    def counterfactual(
        sampler: Any, images: Any, before: Any, after: Any, targets: Any, classifier: Any,
        settings: Any, *, seeds: Any,
    ) -> list[Solution]:  # fmt: skip
        call.prompts += [f"{b} -> {a}" for b, a in zip(before, after, strict=True)]
        call.seeds += list(seeds)
        assert images.shape == (len(seeds), 3, 8, 8)
        return [solution(seed) for seed in seeds]

    loaded = {"a": MeanColour(), "b": MeanColour(("ring", "heart", "other", "sea fish"))}
    monkeypatch.setattr("whylens.classifiers.load_classifier", lambda name, *_: loaded[name])
    monkeypatch.setattr("whylens.diffusion.load_sampler", lambda *_: sampler)
    monkeypatch.setattr("whylens.guidance.optimiser.optimise", optimise)
    monkeypatch.setattr("whylens.guidance.counterfactuals.counterfactual", counterfactual)
    return call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with findings and images; units are worked through in this process."""

    def in_process(run: Run, stage: str, units: Any, make: Any, arguments: Any, _: Any) -> None:
        worker = make(*arguments)
        for unit in units:
            if not run.table(stage).done(unit.name):
                worker(unit)

    for module in (generate, counterfactuals, disagreements):
        monkeypatch.setattr(module, "work_through", in_process)
    run = Run.start(str(tmp_path / "run"), "investigate", {})
    findings = [
        {"rank": 2, "class_index": 1, "class_name": "heart", "component": 0},
        {"rank": 1, "class_index": 0, "class_name": "fish, sea fish", "component": 4},
    ]
    run.table("findings").write("0", pa.Table.from_pylist(findings))
    images = []
    for index in range(12):
        name = ("fish", "heart", "ring")[index % 3]
        path = tmp_path / "images" / name / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8), (20 * index, 100, 50)).save(path)
        top = [index % 3, (index + 1) % 3] if index < 9 else [(index + 2) % 3, index % 3]
        images.append({"id": f"{name}/{index}.png", "label": index % 3, "top5_classes": top,
                       "collection": "main" if index != 3 else "second"})  # fmt: skip
    run.table("images").write("0", pa.Table.from_pylist(images))
    return run


def findings_of(run: Run) -> list[dict[str, Any]]:
    return run.table("findings").read().to_pylist()


DIRECTIONS = {(0, 4): (np.array([1.0, 2.0, 3.0]), 0.5), (1, 0): (np.array([-1.0, 0.0, 1.0]), 0.0)}

PROMPTS = {(0, 4): "a photo of water", (1, 0): "a photo of a cup"}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.float64) / 255


def chances(image: np.ndarray, classifier: MeanColour) -> np.ndarray:
    logits = classifier.head.weight.double().numpy() @ image.mean((0, 1))
    logits = logits + classifier.head.bias.double().numpy()
    return np.exp(logits) / np.exp(logits).sum()


def generated(run: Run, spec: GenerateSpec) -> list[dict[str, Any]]:
    generate.generate(
        run,
        spec,
        findings_of(run),
        DIRECTIONS,
        PROMPTS,
        sampler="s",
        classifier="a",
        placement=Placement(),
    )
    return run.table("generated").read().to_pylist()


def test_generated_rows_tell_of_their_own_pictures(run: Run, optimiser: Call) -> None:
    rows = generated(run, GenerateSpec(images=2, batch=3))
    assert [(row["rank"], row["place"]) for row in rows] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert optimiser.prompts == ["a photo of water"] * 2 + ["a photo of a cup"] * 2
    assert optimiser.seeds == [0, 1, 0, 1]
    for row in rows:
        direction, offset = DIRECTIONS[row["class_index"], row["component"]]
        for name, suffix in (("image", ""), ("start_image", "_start")):
            image = pixels(row[name])
            alpha = image.mean((0, 1)) @ direction - offset
            p = chances(image, MeanColour())[row["class_index"]]
            assert row[f"alpha{suffix}"] == pytest.approx(alpha, abs=1e-5)
            assert row["p_class" if name == "image" else "p_start"] == pytest.approx(p, abs=1e-6)
        assert row["losses"] == [2.0, 1.0]


def test_a_stage_does_only_what_is_missing(run: Run, optimiser: Call) -> None:
    spec = GenerateSpec(images=2, batch=2)
    generated(run, spec)
    parts = run.table("generated").units()
    assert len(parts) == 2
    Path(run.folder, "tables", "generated", f"{parts[1]}.parquet").unlink()
    optimiser.prompts.clear()
    assert len(generated(run, spec)) == 4
    assert optimiser.prompts == ["a photo of a cup"] * 2
    assert len(generated(run, GenerateSpec(images=2, batch=2, seed=5))) == 8


def test_a_failed_image_is_a_row_with_a_reason(run: Run, optimiser: Call) -> None:
    (row,) = generated(run, GenerateSpec(images=1, findings=1, seed=9))
    assert row["failed"] == "not finite at step 0"
    assert row["image"] is None
    assert row["p_class"] is None


def test_nothing_found_is_nothing_to_generate(tmp_path: Path) -> None:
    assert generate.plan([], {}, {}, GenerateSpec()) == []
    assert disagreements.plan([], {}, MeanColour(), MeanColour(), DisagreementSpec()) == []


def changed(run: Run, spec: CounterfactualSpec) -> list[dict[str, Any]]:
    counterfactuals.counterfactuals(
        run,
        spec,
        run.table("images"),
        images=str(Path(run.folder).parent / "images"),
        sampler="s",
        classifier="a",
        against="b",
        placement=Placement(),
    )
    return run.table("counterfactuals").read().to_pylist()


def test_counterfactuals_are_spread_over_classes(run: Run, optimiser: Call) -> None:
    rows = changed(run, CounterfactualSpec(images=5, batch=2))
    # Of the rightly classified: 0 and 6 are fish (3 is of the second collection), then 3 and 3.
    assert [row["source_class"] for row in rows] == [0, 1, 2, 0, 1]
    assert len({row["image_id"] for row in rows}) == 5
    assert all(row["target_class"] == (row["source_class"] + 1) % 3 for row in rows)
    assert optimiser.seeds == [0, 1, 2, 3, 4]
    assert optimiser.prompts[0] == "a photo of a fish -> a photo of a heart"


def test_counterfactual_rows_tell_of_their_own_pictures(run: Run, optimiser: Call) -> None:
    for row in changed(run, CounterfactualSpec(images=4)):
        a, b = MeanColour(), MeanColour(("ring", "heart", "other", "sea fish"))
        before, after = pixels(row["before"]), pixels(row["after"])
        source, target = row["source_class"], row["target_class"]
        in_b = {0: 3, 1: 1, 2: 0}
        for when, image in (("before", before), ("after", after)):
            for side, k in (("source", source), ("target", target)):
                assert row[f"p_{side}_{when}"] == pytest.approx(chances(image, a)[k], abs=1e-6)
                against = chances(image, b)[in_b[k]]
                assert row[f"against_{side}_{when}"] == pytest.approx(against, abs=1e-6)
        was, now = chances(before, a).argmax(), chances(after, a).argmax()
        assert row["flipped"] == (was != target and now == target)
        assert row["l1"] == pytest.approx(np.abs(after - before).mean(), abs=1e-6)
        assert row["l2"] == pytest.approx(np.sqrt(((after - before) ** 2).sum()), abs=1e-4)
        shown = np.clip(2.5 * np.abs(after - before), 0, 1)
        assert np.abs(pixels(row["difference"]) - shown).max() < 0.01


def test_an_image_that_is_too_small_is_recorded_and_the_others_go_on(
    run: Run, optimiser: Call
) -> None:
    for file in (Path(run.folder).parent / "images" / "fish").iterdir():
        Image.new("RGB", (20, 3)).save(file)
    rows = changed(run, CounterfactualSpec(images=4))
    assert [row["source_class"] for row in rows] == [0, 1, 2, 0]
    for row in rows:
        if row["source_class"] == 0:
            assert "20 x 3 px, too small" in row["failed"]
            assert "at least 4 px" in row["failed"]
            assert (row["after"], row["flipped"]) == (None, False)
        else:
            assert row["failed"] is None
            assert row["after"] is not None
    assert optimiser.seeds == [1, 2]


def test_the_target_and_the_classes_can_be_named(run: Run, optimiser: Call) -> None:
    rows = changed(run, CounterfactualSpec(images=9, classes=["heart", "sea fish"], target="ring"))
    assert {row["source_class"] for row in rows} == {0, 1}
    assert {row["target_name"] for row in rows} == {"ring"}
    with pytest.raises(UsageError, match="no class"):
        changed(run, CounterfactualSpec(target="dog"))
    with pytest.raises(UsageError, match="No image to change"):
        changed(run, CounterfactualSpec(classes=["ring"], target="ring"))


def pulled(run: Run, spec: DisagreementSpec) -> list[dict[str, Any]]:
    disagreements.disagreements(
        run,
        spec,
        findings_of(run),
        {(0, 4): "a photo of water"},
        sampler="s",
        classifier="a",
        against="b",
        placement=Placement(),
    )
    return run.table("disagreements").read().to_pylist()


def test_disagreements_follow_the_findings(run: Run, optimiser: Call) -> None:
    rows = pulled(run, DisagreementSpec(images=2))
    assert [row["class_name"] for row in rows] == [NAMES[0]] * 2 + ["heart"] * 2
    # Of the second class's finding no prompt is known: it starts from the class.
    assert optimiser.prompts == ["a photo of water"] * 2 + ["a photo of a heart"] * 2
    for row in rows:
        for image, suffix in ((row["image"], ""), (row["start_image"], "_start")):
            k, other = row["class_index"], {0: 3, 1: 1}[row["class_index"]]
            a = chances(pixels(image), MeanColour())[k]
            b = chances(pixels(image), MeanColour(("ring", "heart", "other", "sea fish")))[other]
            assert row[f"p_a{suffix}"] == pytest.approx(a, abs=1e-6)
            assert row[f"p_b{suffix}"] == pytest.approx(b, abs=1e-6)


def test_disagreements_need_a_shared_class() -> None:
    spec = DisagreementSpec(classes=["ring"], images=1)
    stranger = MeanColour(("dog", "cat"))
    with pytest.raises(UsageError, match="knows none of the classes ring"):
        disagreements.plan([], {}, MeanColour(), stranger, spec)
    (unit,) = disagreements.plan([], {}, MeanColour(), MeanColour(("cat", "ring")), spec)
    assert [(task.class_a, task.class_b) for task in unit.tasks] == [(2, 1)]


def test_specs_are_checked_before_any_work() -> None:
    for spec in (GenerateSpec, CounterfactualSpec, DisagreementSpec):
        with pytest.raises(ValidationError, match="Extra inputs"):
            spec(pictures=3)
        if "prompt_template" in spec.model_fields:
            with pytest.raises(ValidationError, match="class"):
                spec(prompt_template="a photo")
        assert all(field.description for field in spec.model_fields.values())
