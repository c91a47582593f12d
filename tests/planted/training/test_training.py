"""The planted networks: closed-form encoder, attack, training loop."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whylens.errors import UsageError
from whylens.images.tensors import to_batch
from whylens.planted.drawing.data import draw_many
from whylens.planted.networks.cnn import PlantedCNN
from whylens.planted.networks.pipeline import build_tokenizer, words
from whylens.planted.training.autoencoder import (
    closed_form_autoencoder,
    patch_components,
)
from whylens.planted.training.classifiers import l2_attack
from whylens.planted.training.fitting import Schedule, fit
from whylens.planted.training.stages import TrainingPlan, train


@pytest.mark.slow
def test_the_encoder_is_the_principal_components_of_patches() -> None:
    images = draw_many("balanced", 200, 0).images
    autoencoder = closed_form_autoencoder(images, 0)
    with torch.inference_mode():
        posterior = autoencoder.encode(to_batch(images, slice(0, 8)) * 2 - 1).latent_dist
    # An independent path: numpy's SVD of the patches.
    pixels = images.astype(np.float64) / 127.5 - 1
    patches = pixels.reshape(200, 16, 4, 16, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 48)
    patches -= patches.mean(0)
    _, singular, rows = np.linalg.svd(patches, full_matrices=False)
    deviation = singular / np.sqrt(len(patches))
    expected = (patches @ rows[:12].T)[: 8 * 256] / deviation[:12] ** 0.6
    latents = posterior.mean.permute(0, 2, 3, 1).reshape(-1, 12).numpy()
    sign = np.sign((latents * expected).sum(0))
    np.testing.assert_allclose(latents * sign, expected, atol=0.05)
    assert posterior.std.max() < 0.01


def test_patch_components_are_orthogonal() -> None:
    projection, _ = patch_components(draw_many("balanced", 50, 0).images)
    gram = projection @ projection.T
    assert torch.allclose(gram, torch.diag(gram.diag()), atol=1e-4)


def test_the_tokenizer_keeps_words_whole(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    caption = "a photo of a mushroom on bricks with a balloon"
    ids = tokenizer(caption).input_ids
    assert len(ids) == len(caption.split()) + 2
    assert len({tuple(tokenizer(w).input_ids) for w in words()}) == len(words())


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_features_and_head_make_the_logits(architecture: str) -> None:
    network = PlantedCNN(architecture, (4, 8, 12), 5).eval()
    images = torch.rand(3, 3, 64, 64)
    features = network.features(images)
    assert (features >= 0).all()
    expected = features @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(network.feature_map(images).mean((2, 3)), features)


def test_the_attack_stays_in_its_ball_and_raises_the_loss() -> None:
    torch.manual_seed(0)
    network = PlantedCNN("plain", (4, 8), 5).eval()
    images, labels = torch.rand(6, 3, 64, 64), torch.arange(6) % 5
    attacked = l2_attack(network, images, labels, 0.7, 10)
    change = (attacked - images).flatten(1).norm(dim=1)
    assert (change <= 0.7 + 1e-4).all()
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    before = nn.functional.cross_entropy(network(images), labels, reduction="none")
    after = nn.functional.cross_entropy(network(attacked), labels, reduction="none")
    assert (after > before).all()


class _Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(3))

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        x = torch.randn(16, 3, generator=generator)
        return ((x * self.slope).sum(1) - x @ torch.tensor([1.0, -2.0, 0.5])).square().mean()


@pytest.mark.slow
def test_training_finds_the_truth_and_a_restart_changes_nothing(tmp_path: Path) -> None:
    whole = _Line()
    fit("line", whole, whole.loss, Schedule(400, 0.05), tmp_path / "whole")
    np.testing.assert_allclose(whole.slope.detach(), [1.0, -2.0, 0.5], atol=0.02)

    broken = _Line()
    counter = itertools.count()

    def interrupted(step: int, generator: torch.Generator) -> Tensor:
        if next(counter) == 250:
            raise KeyboardInterrupt
        return broken.loss(step, generator)

    folder = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        fit("line", broken, interrupted, Schedule(400, 0.05), folder, checkpoint_seconds=0)
    again = _Line()
    fit("line", again, again.loss, Schedule(400, 0.05), folder)
    torch.testing.assert_close(again.slope, whole.slope)
    steps = [json.loads(line)["step"] for line in (folder / "line.jsonl").open()]
    assert steps == [100, 200, 300, 400]


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    line = _Line()
    with pytest.raises(FloatingPointError, match="step 0"):
        fit("line", line, lambda s, g: line.slope.sum() * torch.nan, Schedule(5, 0.1), tmp_path)


def test_an_unknown_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'unet'"):
        train(TrainingPlan(tmp_path), ["unet"])
