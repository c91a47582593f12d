"""Noise on the object and off it, and what accuracies under both come to."""

import numpy as np
import pytest
import torch

from whylens.classifiers.foreground import noisy, relative_foreground_sensitivity


def test_noise_is_the_same_on_the_object_and_off_it():
    images, masks = torch.full((2, 3, 8, 8), 0.5), torch.zeros(2, 1, 8, 8)
    masks[:, :, :, :3] = 1
    on, off = noisy(images, masks, 0.1, torch.Generator().manual_seed(1))
    assert (on[..., 3:] == 0.5).all()
    assert (off[..., :3] == 0.5).all()
    (one, _), (_, other) = (
        noisy(images, whole, 0.1, torch.Generator().manual_seed(1))
        for whole in (torch.ones_like(masks), torch.zeros_like(masks))
    )
    # All of it on either side is one and the same noise, of the deviation that was asked for.
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(on + off - images, one)
    assert float((one - 0.5).std()) == pytest.approx(0.1, rel=0.15)
    bright, _ = noisy(images, masks, 50.0, torch.Generator().manual_seed(1))
    assert bright.min() == 0
    assert bright.max() == 1


@pytest.mark.parametrize(
    ("foreground", "background", "said"),
    [(0.5, 0.9, 2 / 3), (0.9, 0.5, -2 / 3), (0.2, 0.2, 0.0), (0.0, 0.4, 1.0), (0.0, 0.0, 0.0),
     (1.0, 1.0, 0.0)],
)  # fmt: skip
def test_sensitivity_is_the_gap_over_the_largest_one_of_that_mean(foreground, background, said):
    assert relative_foreground_sensitivity(foreground, background) == pytest.approx(said)
    # The largest gap: of all pairs in [0, 1] with this mean.
    mean = (foreground + background) / 2
    lower = np.linspace(0, 1, 2001)
    upper = 2 * mean - lower
    largest = (upper - lower)[(upper >= 0) & (upper <= 1)].max()
    if largest > 1e-3:
        assert (background - foreground) / largest == pytest.approx(said, abs=2e-3)
