"""A repaired classifier goes wherever a classifier goes, and says what the formula says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from whylens.classifiers import load_classifier
from whylens.classifiers.repaired import RepairedHead, repair, save_repaired
from whylens.errors import UsageError
from whylens.guidance.objectives import TargetClass
from whylens.neural_pca import Refit, class_components, spufix


@pytest.fixture(scope="module")
def base():
    return load_classifier("planted:biased")


@pytest.fixture(scope="module")
def images():
    return torch.rand((12, 3, 64, 64), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def fix(base, images):
    features = base.features(images).double().numpy()
    weight, bias = base.head.weight.double().numpy(), base.head.bias.double().numpy()
    found = [class_components(k, weight[k], bias[k], features, 4) for k in (2, 5)]
    return spufix(found, {2: [0, 1], 5: [2]})


def test_logits_are_the_formulas(base, images, fix):
    repaired = repair(base, fix)
    phi = base.features(images).double().numpy()
    expected = fix.fix(phi, base.logits(images).double().numpy())
    np.testing.assert_allclose(repaired.logits(images).numpy(), expected, atol=1e-4)
    assert np.abs(expected - base.logits(images).numpy()).max() > 0.01
    assert repaired.feature_size == base.feature_size + 3
    assert repaired.fingerprint != base.fingerprint


def test_it_is_saved_loaded_and_guided(base, images, fix, tmp_path: Path):
    path = tmp_path / "fix.safetensors"
    save_repaired(repair(base, fix), path)
    loaded = load_classifier(f"spufix:{path}")
    assert loaded.base == "planted:biased"
    assert torch.equal(loaded.logits(images), repair(base, fix).logits(images))
    objective = TargetClass(loaded, torch.full((12,), 2))
    _, gradient = objective.value_and_gradient(images)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_a_new_head_takes_the_old_ones_place(base, images):
    rng = np.random.default_rng(0)
    head = base.head
    new = Refit(rng.normal(size=head.weight.shape), rng.normal(size=len(head.bias)), 1.0, 0.0)
    logits = repair(base, new).logits(images).numpy()
    expected = base.features(images).double().numpy() @ new.weight.T + new.bias
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.slow
def test_the_head_is_a_plain_module_that_can_be_exported(base, images, fix):
    head = repair(base, fix).repaired_head
    assert isinstance(head, RepairedHead)
    phi = base.features(images)
    exported = torch.export.export(head, (phi,)).module()
    np.testing.assert_allclose(
        exported(phi).numpy(), repair(base, fix).logits(images).numpy(), atol=1e-5
    )


def test_wrong_files_and_bases_are_named(base, fix, tmp_path: Path):
    path = tmp_path / "fix.safetensors"
    save_repaired(repair(base, fix), path)
    with pytest.raises(UsageError, match="repairs a classifier of fingerprint"):
        load_classifier(f"spufix:{path}?base=planted:balanced")
    with pytest.raises(UsageError, match="no file"):
        load_classifier("spufix:nowhere.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(UsageError, match="holds no repaired head"):
        load_classifier(f"spufix:{tmp_path / 'text'}")
    with pytest.raises(UsageError, match="directions has the shape"):
        repair(load_classifier("planted:clip"), fix)
