"""The generation stages: which images are made, and that each row tells of its own picture."""

import io
import runpy
from collections.abc import Iterator
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

from whylens.classifiers import Head, load_classifier
from whylens.classifiers.activation import SOFTMAX
from whylens.diffusion import Conditioning, Inversion
from whylens.errors import UsageError
from whylens.guidance.objectives import PixelDistance
from whylens.guidance.problems import Problems
from whylens.guidance.state import State
from whylens.jobs.guided import counterfactuals, disagreement_plan, disagreements, generate
from whylens.jobs.guided.counterfactual_plan import CounterfactualSpec
from whylens.jobs.guided.disagreement_plan import DisagreementSpec
from whylens.jobs.guided.generate import GenerateSpec
from whylens.jobs.guided.models import Models
from whylens.jobs.guided.targets import Targets
from whylens.runs import Run
from whylens.runs.lineage import Lineage

NAMES = ("fish, sea fish", "heart", "ring")


class MeanColour:
    """A classifier whose features are the mean red, green and blue, and whose head is fixed."""

    name, activation, image_size = "mean colour", SOFTMAX, 8
    device = torch.device("cpu")

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.class_names = names
        rows = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [1, 1, 1]])[: len(names)]
        self.head = Head(rows, torch.arange(len(names)) / 10)

    def class_index(self, name: str) -> int:
        for index, names in enumerate(self.class_names):
            if name in (names, str(index), *names.split(", ")):
                return index
        raise UsageError(f"no class {name!r}")

    fingerprint = "mean-colour"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images)).softmax(-1)


@dataclass
class Call:
    """What the optimiser was asked."""

    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    sampled: list[tuple[str, int]] = field(default_factory=list)


def picture(seed: int) -> torch.Tensor:
    return torch.rand((3, 8, 8), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def optimiser(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Replace the networks and the optimiser by ones whose results are known."""
    call = Call()
    sampler = SimpleNamespace(device=torch.device("cpu"), image_size=8, name="a sampler")

    def from_prompts(sampler: Any, prompts: Any, seeds: Any) -> Problems:
        call.prompts += prompts
        return problems_of(seeds)

    def problems_of(seeds: Any) -> Problems:
        nothing = torch.zeros(len(seeds), 1, 1)
        return Problems(nothing, Conditioning(nothing, nothing), torch.tensor(seeds))

    def optimise(
        sampler: Any, problems: Any, objective: Any, settings: Any, memory: Any
    ) -> Iterator[State]:
        seeds = problems.seeds.tolist()
        call.seeds += seeds
        failed = {row: "not finite at step 0" for row, seed in enumerate(seeds) if seed == 9}
        rows = [row for row in range(len(seeds)) if row not in failed]
        for step, loss in ((0, 2.0), (1, 1.0)):
            images = [picture(seeds[row] + 100 * step) for row in rows]
            stacked = torch.stack(images) if images else torch.zeros(0, 3, 8, 8)
            yield State(step, rows, stacked, torch.full((len(rows),), loss), failed)
            failed = {}

    def sample(
        sampler: Any, prompts: Any, seeds: Any, *, steps: int, guidance_scale: float
    ) -> torch.Tensor:
        call.sampled += [(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return torch.stack([picture(seed) for seed in seeds])

    def counterfactual_problems(
        sampler: Any, images: Any, before: Any, after: Any, targets: Any, classifier: Any,
        settings: Any, *, masks: Any, seeds: Any, inversion: Any, segmenter: Any,
    ) -> tuple[Problems, PixelDistance]:  # fmt: skip
        # It is that of these images.
        torch.testing.assert_close(inversion.noise, images[:, :1])
        call.prompts += [f"{b} -> {a}" for b, a in zip(before, after, strict=True)]
        assert images.shape == (len(seeds), 3, 8, 8)
        return problems_of(seeds), PixelDistance(images)

    def invert_images(sampler: Any, images: Any, prompts: Any, **how: Any) -> Inversion:
        ratios = torch.full((len(images),), 40.0)
        return Inversion(
            images[:, :1], images[:, :1], torch.zeros(len(images), 2), None, ratios, ratios
        )

    loaded = {"a": MeanColour(), "b": MeanColour(("ring", "heart", "other", "sea fish"))}
    monkeypatch.setattr("whylens.classifiers.load_classifier", lambda name, *_: loaded[name])
    monkeypatch.setattr("whylens.classifiers.describe", loaded.get)
    monkeypatch.setattr("whylens.diffusion.load_sampler", lambda *_: sampler)
    monkeypatch.setattr("whylens.diffusion.sample", sample)
    monkeypatch.setattr("whylens.guidance.memory.invert_images", invert_images)
    monkeypatch.setattr("whylens.guidance.optimiser.optimise", optimise)
    monkeypatch.setattr("whylens.guidance.problems.Problems.from_prompts", from_prompts)
    monkeypatch.setattr(
        "whylens.guidance.counterfactuals.counterfactual_problems", counterfactual_problems
    )
    return call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: Any) -> Run:
    """A run with findings and images; units are worked through in this process."""
    for module in (generate, counterfactuals, disagreements):
        monkeypatch.setattr(module, "work_through", in_process)
    spec = {"images": str(tmp_path / "images"), "classifier": "a"}
    run = Run.start(str(tmp_path / "run"), "investigate", spec)
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
                       "collection": "main" if index != 3 else "second", "class_name": name,
                       "caption": "", "thumb": bytes([index])})  # fmt: skip
    colours = [component for index in range(12) for component in (20 * index / 255, 0.4, 0.2)]
    features = pa.FixedSizeListArray.from_arrays(pa.array(np.float16(colours)), 3)
    table = pa.Table.from_pylist(images)
    run.table("images").write("0", table.append_column("features", features))
    return run


def findings_of(run: Run) -> list[dict[str, Any]]:
    return run.table("findings").read().to_pylist()


DIRECTIONS = {
    (0, 4): (np.array([1.0, 2.0, 3.0]), 0.5),
    (1, 0): (np.array([-1.0, 0.0, 1.0]), 0.0),
    (2, 0): (np.array([0.0, 1.0, 0.0]), 0.0),
}

PROMPTS = {(0, 4): "a photo of water", (1, 0): "a photo of a cup", (2, 0): "a photo of a ring"}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.float64) / 255


def pixels_of(seed: int) -> np.ndarray:
    return picture(seed).permute(1, 2, 0).double().numpy()


def nearest_of(run: Run, content: bytes) -> list[str]:
    """The main collection's images in order of their distance in mean colour, the first four."""
    rows = [r for r in run.table("images").read().to_pylist() if r["collection"] == "main"]
    colour = pixels(content).mean((0, 1))
    distances = [np.linalg.norm(np.asarray(r["features"], float) - colour) for r in rows]
    return [rows[i]["id"] for i in np.argsort(distances)[:4]]


def chances(image: np.ndarray, classifier: MeanColour) -> np.ndarray:
    logits = classifier.head.weight.double().numpy() @ image.mean((0, 1))
    logits = logits + classifier.head.bias.double().numpy()
    return np.exp(logits) / np.exp(logits).sum()


def generated(run: Run, spec: GenerateSpec) -> list[dict[str, Any]]:
    generate.generate(
        run, Lineage(run), spec, Models("s", "a", ["b"]), findings_of(run), DIRECTIONS, PROMPTS
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
        own, other = row["probabilities"]
        assert (own["classifier"], other["classifier"]) == ("a", "b")
        assert own["before"] == pytest.approx(row["p_start"], abs=1e-6)
        assert own["after"] == pytest.approx(row["p_class"], abs=1e-6)
        # It numbers the class otherwise, and has one more.
        assert other["class_name"] == own["class_name"] == NAMES[row["class_index"]]
        assert other["after"] != pytest.approx(own["after"], abs=1e-3)
        assert row["trajectory"] == [row["start_image"], row["image"]]
        assert nearest_of(run, row["image"]) == [one["image_id"] for one in row["closest"]]
        gap = np.abs(pixels(row["image"]) - pixels(row["start_image"]))
        np.testing.assert_allclose(pixels(row["difference"]), (2.5 * gap).clip(0, 1), atol=0.02)


def test_a_flow_s_images_are_guided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: Any
) -> None:
    """Nothing is replaced: a small Stable Diffusion 3, a classifier, and the stage's own worker."""
    monkeypatch.setattr(generate, "work_through", in_process)
    folder = Path(__file__).parents[2] / "diffusion" / "tiny_pipeline.py"
    flow = runpy.run_path(str(folder))["save_pipeline"](tmp_path, "flow_clip")
    run = Run.start(str(tmp_path / "run"), "investigate", {"classifier": "planted:biased"})
    row = {"rank": 1, "class_index": 4, "class_name": "fish", "component": 0}
    direction = load_classifier("planted:biased").head.weight[4].double().numpy()
    guidance = {
        "chain": {"steps": 2},
        "optimiser": {"steps": 3, "learning_rate": 0.05},
        "views": {"cutouts": 2},
    }
    spec = GenerateSpec.model_validate({"images": 2, "guidance": guidance})
    generate.generate(
        run, Lineage(run), spec, Models(str(flow), "planted:biased"), [row],
        {(4, 0): (direction, 0.0)}, {(4, 0): "a photo of a fish"},
    )  # fmt: skip
    rows = run.table("generated").read().to_pylist()
    assert [row["seed"] for row in rows] == [0, 1]
    for row in rows:
        assert row["failed"] is None
        assert row["alpha"] > row["alpha_start"]
        assert min(row["losses"]) < row["losses"][0]


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


def test_images_of_findings_that_are_none_any_more_go(run: Run, optimiser: Call) -> None:
    spec, (heart, fish) = GenerateSpec(images=2, batch=2), findings_of(run)
    generated(run, spec)
    first, _ = run.table("generated").units()
    # A class that had failed is completed: its finding comes before the heart's.
    ring = {"rank": 2, "class_index": 2, "class_name": "ring", "component": 0}
    now = [{**heart, "rank": 3}, fish, ring]
    run.table("findings").write("0", pa.Table.from_pylist(now))
    optimiser.prompts.clear()
    rows = generated(run, spec)
    assert [row["class_index"] for row in rows] == [0, 0, 2, 2, 1, 1]
    assert [row["rank"] for row in rows] == [1, 1, 2, 2, 3, 3]
    assert run.table("generated").units()[0] == first
    assert optimiser.prompts == ["a photo of a ring"] * 2 + ["a photo of a cup"] * 2


def test_a_finding_without_a_prompt_has_no_image(run: Run, optimiser: Call) -> None:
    prompts = {(1, 0): "a photo of a cup"}
    (unit,) = generate.plan(findings_of(run), DIRECTIONS, prompts, GenerateSpec(images=1))
    assert [task.class_index for task in unit.tasks] == [1]


def test_a_failed_image_is_a_row_with_a_reason(run: Run, optimiser: Call) -> None:
    (row,) = generated(run, GenerateSpec(images=1, findings=1, seed=9))
    assert row["failed"] == "not finite at step 0"
    assert row["image"] is None
    assert row["p_class"] is None


def test_nothing_found_is_nothing_to_generate(tmp_path: Path) -> None:
    assert generate.plan([], {}, {}, GenerateSpec()) == []


def test_some_settings_leave_the_other_defaults_of_counterfactuals() -> None:
    spec = CounterfactualSpec.model_validate({"guidance": {"optimiser": {"steps": 4}}})
    own = CounterfactualSpec().guidance
    optimiser = own.optimiser.model_copy(update={"steps": 4})
    assert spec.guidance == own.model_copy(update={"optimiser": optimiser})
    assert optimiser.stop_below == 0.3
    never = CounterfactualSpec.model_validate({"guidance": {"optimiser": {"stop_below": None}}})
    assert never.guidance.optimiser.stop_below is None


def changed(run: Run, spec: CounterfactualSpec) -> list[dict[str, Any]]:
    counterfactuals.counterfactuals(run, Lineage(run), spec, Models("s", "a", ["b"]))
    return run.table("counterfactuals").read().to_pylist()


def test_counterfactuals_are_spread_over_classes(run: Run, optimiser: Call) -> None:
    rows = changed(run, CounterfactualSpec(images=5, batch=2))
    # Of the rightly classified: 0 and 6 are fish (3 is of the second collection), then 3 and 3.
    assert [row["source_class"] for row in rows] == [0, 1, 2, 0, 1]
    assert len({row["image_id"] for row in rows}) == 5
    assert all(row["target_class"] == (row["source_class"] + 1) % 3 for row in rows)
    assert optimiser.seeds == [0, 1, 2, 3, 4]
    assert optimiser.prompts[0] == "a photo of a fish -> a photo of a heart"


def test_a_caption_without_its_class_is_told(run: Run, optimiser: Call) -> None:
    (unit,), table = run.table("images").units(), run.table("images").read()
    told = {"fish": "a fish at sea", "heart": "my pet", "ring": ""}
    captions = [told[image_id.split("/")[0]] for image_id in table["id"].to_pylist()]
    place = table.column_names.index("caption")
    run.table("images").write(unit, table.set_column(place, "caption", pa.array(captions)))
    changed(run, CounterfactualSpec(images=6))
    assert "a fish at sea -> a heart at sea" in optimiser.prompts
    assert "a photo of a heart -> a photo of a ring" in optimiser.prompts
    (warning,) = run.record()["warnings"]
    assert warning.startswith("counterfactuals: the captions of 2 of 6 images lack the word")
    assert ".png: 'my pet'" in warning


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
        said = {(o["classifier"], o["class_name"]): o["after"] for o in row["probabilities"]}
        assert said["b", row["target_name"]] == row["against_target_after"]
        assert len(said) == 4
        assert row["trajectory"][-1] == row["after"]
        assert row["trajectory_steps"] == [0, 1]
        assert nearest_of(run, row["after"]) == [one["image_id"] for one in row["closest"]]
        number = int(row["closest"][0]["image_id"].split("/")[1].split(".")[0])
        assert row["closest"][0]["thumb"] == bytes([number])


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


def test_misclassified_images_are_led_to_the_truth(run: Run, optimiser: Call) -> None:
    # As YAML reads it.
    rows = changed(run, CounterfactualSpec(images=9, target=True))
    # 9, 10 and 11 are taken for the class before their own.
    assert {(r["image_id"], r["source_class"], r["target_class"]) for r in rows} == {
        ("fish/9.png", 2, 0), ("heart/10.png", 0, 1), ("ring/11.png", 1, 2),
    }  # fmt: skip
    # What such an image shows is its label, before and after.
    assert {r["prompt_before"] for r in rows} == {
        "a photo of a fish", "a photo of a heart", "a photo of a ring",
    }  # fmt: skip
    assert all(r["prompt_before"] == r["prompt_after"] for r in rows)


def test_near_is_by_the_heads_rows_or_by_a_tree(run: Run, tmp_path: Path) -> None:
    four = MeanColour(("fish", "heart", "ring", "cat"))
    four.head = Head(
        torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.9, 0.1, 0], [0, 0.8, 0.2]]), torch.zeros(4)
    )
    near = {k: Targets("near", None, four)(k, [k]) for k in range(4)}
    assert near == {0: (0, 2), 1: (1, 3), 2: (2, 0), 3: (3, 1)}
    tree = tmp_path / "tree.json"
    tree.write_text('{"alive": {"in water": ["fish"], "on land": ["cat"]}, "things": ["heart"]}')
    aim = Targets("near", str(tree), four)
    assert [aim(k, [k]) for k in (0, 3, 2)] == [(0, 3), (3, 0), None]
    # Nothing shares a branch with the heart: the head decides.
    assert aim(1, [1]) == (1, 3)
    tree.write_text('{"alive": ["fisch"]}')
    with pytest.raises(UsageError, match=r"tree.json: no class 'fisch'"):
        Targets("near", str(tree), four)
    tree.write_text("{")
    with pytest.raises(UsageError, match=r"tree.json can't be read as JSON"):
        Targets("near", str(tree), four)
    with pytest.raises(UsageError, match="tree is for the target 'near'"):
        Targets("ring", str(tree), four)


def test_targets_may_be_listed_random_or_a_whole_cluster(run: Run, tmp_path: Path) -> None:
    four = MeanColour(("fish", "heart", "ring", "cat"))
    four.head = Head(torch.eye(4)[:, :3], torch.zeros(4))
    tree = tmp_path / "tree.json"
    tree.write_text('{"alive": ["fish", "cat", "heart"], "things": ["ring"]}')
    aim = Targets("cluster", str(tree), four)
    assert sorted(aim.of("a", 0, [0, 1])) == [(0, 1), (0, 3)]
    assert aim.of("a", 2, [2]) == aim.of("a", 0, [1, 0]) == aim.of("a", -1, [0]) == []
    with pytest.raises(UsageError, match="needs a tree of labels"):
        Targets("cluster", None, four)
    drawn = {str(i): Targets("random", None, four, seed=1).of(str(i), 0, [0]) for i in range(60)}
    assert {pair for pairs in drawn.values() for pair in pairs} == {(0, 1), (0, 2), (0, 3)}
    assert drawn["7"] == Targets("random", None, four, seed=1).of("7", 0, [0])
    listed = Targets("listed", None, four, listed={"a": "ring", "b": "fish"})
    assert listed.of("a", 0, [0]) == [(0, 2)]
    # To what it is already, of no list, misclassified.
    assert listed.of("b", 0, [0]) == listed.of("c", 0, [0]) == listed.of("a", 0, [1]) == []
    for target, wrong in (("ring", {"a": "ring"}), ("listed", None)):
        with pytest.raises(UsageError, match="go with the target 'listed'"):
            Targets(target, None, four, listed=wrong)


def test_listed_targets_are_those_of_the_images(run: Run, optimiser: Call) -> None:
    told = {"fish/0.png": "ring", "heart/1.png": "fish, sea fish"}
    rows = changed(run, CounterfactualSpec(target="listed", targets=told))
    assert {(r["image_id"], r["target_name"]) for r in rows} == set(told.items())
    with pytest.raises(UsageError, match=r"targets: there is no image 'fish/99.png'"):
        changed(run, CounterfactualSpec(target="listed", targets={"fish/99.png": "ring"}))


def test_a_users_prompt_must_name_the_class(run: Run, optimiser: Call) -> None:
    told = {"fish/0.png": "my fish at home", "heart/1.png": "a Heart of glass"}
    rows = changed(run, CounterfactualSpec(target="ring", prompts=told))
    assert {(r["prompt_before"], r["prompt_after"]) for r in rows} == {
        ("my fish at home", "my ring at home"), ("a Heart of glass", "a ring of glass"),
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"'my pet' of the image 'fish/0.png' lacks .* 'fish'"):
        changed(run, CounterfactualSpec(prompts={"fish/0.png": "my pet"}))
    with pytest.raises(UsageError, match="there is no image 'fish/99"):
        changed(run, CounterfactualSpec(prompts={"fish/99.png": "my fish"}))


def pulled(run: Run, spec: DisagreementSpec) -> list[dict[str, Any]]:
    disagreements.disagreements(
        run,
        Lineage(run),
        spec,
        Models("s", "a", ["b"]),
        findings_of(run),
        {(0, 4): "a photo of water"},
    )
    return run.table("disagreements").read().to_pylist()


def test_disagreements_follow_the_findings(run: Run, optimiser: Call) -> None:
    rows = pulled(run, DisagreementSpec(images=2, scout=3))
    # Of the second class's finding no prompt is known: it starts from the class.
    prompts = {NAMES[0]: "a photo of water", "heart": "a photo of a heart"}
    assert optimiser.sampled == [(p, seed) for p in prompts.values() for seed in range(3)]
    a, b = MeanColour(), MeanColour(("ring", "heart", "other", "sea fish"))
    in_b = {0: 3, 1: 1}
    gaps = {
        k: sorted(
            (
                chances(pixels_of(seed), a)[k] - chances(pixels_of(seed), b)[in_b[k]]
                for seed in range(3)
            ),
            reverse=True,
        )[:2]
        for k in (0, 1)
    }
    first, second = sorted((0, 1), key=lambda k: -sum(gaps[k]))
    assert [row["class_index"] for row in rows] == [first] * 2 + [second] * 2
    for place, row in enumerate(rows):
        k = row["class_index"]
        assert row["prompt"] == prompts[row["class_name"]]
        assert (row["classifier_a"], row["classifier_b"]) == ("a", "b")
        # It starts from the plain image on which the two differ most.
        start = row["p_a_start"] - row["p_b_start"]
        assert start == pytest.approx(gaps[k][place % 2], abs=1e-2)
        for image, suffix, when in ((row["image"], "", "after"), (row["start_image"], "_start",
                                                                "before")):  # fmt: skip
            p_a, p_b = chances(pixels(image), a)[k], chances(pixels(image), b)[in_b[k]]
            assert row[f"p_a{suffix}"] == pytest.approx(p_a, abs=1e-6)
            assert row[f"p_b{suffix}"] == pytest.approx(p_b, abs=1e-6)
            said = {one["classifier"]: one[when] for one in row["probabilities"]}
            assert said == {"a": row[f"p_a{suffix}"], "b": row[f"p_b{suffix}"]}
        assert nearest_of(run, row["image"]) == [one["image_id"] for one in row["closest"]]
    assert [row["seed"] for row in rows] == optimiser.seeds


def test_every_pair_of_any_number_of_classifiers_is_looked_at() -> None:
    three = {"a": MeanColour(), "b": MeanColour(), "c": MeanColour(("ring", "cat"))}
    plain = {
        NAMES[0]: [disagreement_plan.Plain("p", 0, {"a": 0.9, "b": 0.1})],
        "heart": [disagreement_plan.Plain("p", 0, {"a": 0.2, "b": 0.8})],
        "ring": [disagreement_plan.Plain("p", 0, {"a": 0.5, "b": 0.6, "c": 0.7})],
    }

    def pairs(spec: DisagreementSpec) -> list[tuple[str, str, str]]:
        units = disagreement_plan.plan(plain, three, spec)
        return [(t.a, t.b, t.class_name) for unit in units for t in unit.tasks]

    spec = DisagreementSpec(images=1, most_classes=1)
    assert pairs(spec) == [("a", "b", NAMES[0]), ("a", "c", "ring")]
    every = spec.model_copy(update={"pairs": "every"})
    assert pairs(every) == [
        ("a", "b", NAMES[0]),
        ("a", "c", "ring"),
        ("b", "a", "heart"),
        ("b", "c", "ring"),
        ("c", "a", "ring"),
        ("c", "b", "ring"),
    ]


def test_more_images_than_were_scouted_start_from_new_seeds() -> None:
    two = {"a": MeanColour(), "b": MeanColour()}
    plain = {
        "ring": [disagreement_plan.Plain("p", seed, {"a": seed / 10, "b": 0}) for seed in (0, 1)]
    }
    (unit,) = disagreement_plan.plan(plain, two, DisagreementSpec(images=4))
    assert [task.seed for task in unit.tasks] == [1, 0, 2, 3]


def test_disagreements_need_a_shared_class_and_two_classifiers(run: Run, optimiser: Call) -> None:
    spec = DisagreementSpec(classes=["ring"], images=1)
    stranger = {"a": MeanColour(), "b": MeanColour(("dog", "cat"))}
    with pytest.raises(UsageError, match="knows any of the classes ring"):
        disagreement_plan.scouting([], {}, stranger, spec)
    other = {"a": MeanColour(), "b": MeanColour(("cat", "ring"))}
    (scout,) = disagreement_plan.scouting([], {}, other, spec)
    assert (scout.class_name, scout.prompts) == ("ring", ("a photo of a ring",))
    with pytest.raises(UsageError, match="two different classifiers"):
        disagreements.disagreements(run, Lineage(run), spec, Models("s", "a", ["a"]), [], {})


def test_specs_are_checked_before_any_work() -> None:
    for spec in (GenerateSpec, CounterfactualSpec, DisagreementSpec):
        with pytest.raises(ValidationError, match="Extra inputs"):
            spec(pictures=3)
        if "prompt_template" in spec.model_fields:
            with pytest.raises(ValidationError, match="class"):
                spec(prompt_template="a photo")
        assert all(field.description for field in spec.model_fields.values())
