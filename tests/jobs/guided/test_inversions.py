"""Inversions are kept one by one, found again by whoever builds on the run, and never mixed up."""

import pytest
import torch

from whylens.diffusion import condition, denoise, load_sampler, result, sample
from whylens.guidance.settings import EditingSettings, GuidanceSettings
from whylens.jobs.guided import inversions as job
from whylens.jobs.guided.inversions import Inversions
from whylens.runs import Run
from whylens.runs.lineage import Lineage

PROMPTS = ["a photo of a boat on grass", "a photo of a moon"]
SETTINGS = GuidanceSettings(chain={"steps": 3})


@pytest.fixture(scope="module")
def sampler():
    return load_sampler("planted")


@pytest.fixture(scope="module")
def images(sampler):
    return sample(sampler, PROMPTS, [1, 2], steps=5).clone()


@pytest.fixture
def counted(monkeypatch):
    """How many images were inverted, call by call."""
    from whylens.guidance import memory

    calls, original = [], memory.invert_images

    def counting(sampler, images, *rest, **how):
        calls.append(len(images))
        return original(sampler, images, *rest, **how)

    monkeypatch.setattr(memory, "invert_images", counting)
    return calls


def started(folder, source=None):
    run = Run.start(str(folder), "counterfactuals", {"source": source} if source else {})
    return run, Lineage(run)


@pytest.mark.slow
def test_what_is_kept_is_not_made_again_and_leads_back(tmp_path, sampler, images, counted):
    run, lineage = started(tmp_path / "first")
    first = Inversions(run, lineage, sampler, SETTINGS).of(["a", "b"], images, PROMPTS)
    again = Inversions(run, lineage, sampler, SETTINGS).of(["a", "b"], images, PROMPTS)
    assert counted == [2]
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.offsets, again.offsets)
    # Another order, from a run that builds on this one: each image has its own.
    run, lineage = started(tmp_path / "second", source=str(tmp_path / "first"))
    turned = Inversions(run, lineage, sampler, SETTINGS).of(
        ["b", "a"], images.flip(0), PROMPTS[::-1]
    )
    assert counted == [2]
    conditioning = turned.onto(condition(sampler, PROMPTS[::-1]))
    with torch.no_grad():
        states = denoise(sampler, turned.noise, conditioning, steps=3, guidance_scale=3.0)
        latents = result(states)
    torch.testing.assert_close(latents, sampler.encode(images.flip(0)), rtol=0, atol=1e-4)
    rows = {row["image_id"]: row for row in Run.open(str(tmp_path / "first")).table(
        job.INVERSIONS).read().to_pylist()}  # fmt: skip
    assert rows["b"]["prompt"] == PROMPTS[1]
    assert rows["b"]["kind"] == "direct"
    assert rows["b"]["psnr"] == pytest.approx(float(first.psnr[1]))
    assert not run.table(job.INVERSIONS).units()


def test_another_prompt_or_kind_is_another_inversion(tmp_path, sampler, images, counted):
    run, lineage = started(tmp_path / "run")
    kept = Inversions(run, lineage, sampler, SETTINGS)
    kept.of(["a", "b"], images, PROMPTS)
    kept.of(["a", "b"], images, [PROMPTS[0], "a photo of a star"])
    other = SETTINGS.model_copy(update={"editing": EditingSettings(encoder_steps=2)})
    Inversions(run, lineage, sampler, other).of(["a", "b"], images, PROMPTS)
    assert counted == [2, 2, 2]
    assert len(run.table(job.INVERSIONS).units()) == 5


def test_a_batch_of_which_a_part_was_kept_comes_out_as_it_was(tmp_path, sampler, images):
    run, lineage = started(tmp_path / "run")
    whole = Inversions(run, lineage, sampler, SETTINGS).of(["a", "b"], images, PROMPTS)
    part = run.table(job.INVERSIONS).units()[0]
    (tmp_path / "run" / "tables" / job.INVERSIONS / f"{part}.parquet").unlink()
    again = Inversions(run, lineage, sampler, SETTINGS).of(["a", "b"], images, PROMPTS)
    assert torch.equal(whole.noise, again.noise)
    assert len(run.table(job.INVERSIONS).units()) == 2
