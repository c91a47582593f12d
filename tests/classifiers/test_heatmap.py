import numpy as np
import pytest
import torch

from whylens.classifiers import Classifier, Head, load_classifier
from whylens.classifiers.heatmap import component_heatmap, overlay


class PatchMeans(Classifier):
    """Features without a map: the mean of each quarter of the image, squared."""

    def __init__(self):
        super().__init__("patch means", ("a", "b"), 32)

    @property
    def head(self):
        return Head(torch.ones(2, 4), torch.zeros(2))

    def preprocess(self, images):
        return images

    def features(self, images):
        halves = [half.chunk(2, 3) for half in images.chunk(2, 2)]
        return torch.stack([q.mean((1, 2, 3)).square() for row in halves for q in row], 1)


@pytest.fixture(scope="module")
def biased():
    return load_classifier("planted:biased")


def test_the_mean_of_an_exact_map_is_the_inner_product_with_the_features(biased):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 64, 64, generator=generator)
    directions = torch.randn(3, biased.feature_size, generator=generator)
    heat = component_heatmap(biased, images, directions)
    assert heat.shape == (3, 64, 64)
    expected = (biased.features(images) * directions).sum(1)
    torch.testing.assert_close(heat.mean((1, 2)), expected, rtol=1e-4, atol=1e-5)
    one = component_heatmap(biased, images, directions[1])
    torch.testing.assert_close(one[1], heat[1])
    assert not torch.allclose(one[0], heat[0])


def test_an_exact_map_is_hot_where_the_feature_is(biased):
    image = torch.full((1, 3, 64, 64), 0.5)
    changed = image.clone()
    changed[..., 40:56, 8:24] = torch.tensor([1.0, 0.1, 0.1])[:, None, None]
    direction = biased.features(changed)[0] - biased.features(image)[0]
    heat = component_heatmap(biased, changed, direction)[0]
    heat = heat - component_heatmap(biased, image, direction)[0]
    row, column = divmod(int(heat.argmax()), 64)
    assert 32 <= row < 64
    assert 0 <= column < 32


def test_without_a_feature_map_the_gradient_says_where():
    classifier = PatchMeans()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    heat = component_heatmap(classifier, images, torch.tensor([0.0, 0.0, 0.0, 5.0]))
    # d/dx of 5 mean^2 over the 3 * 16 * 16 values of the last quarter.
    pixels = images.double().numpy()
    slope = 10 * pixels[:, :, 16:, 16:].mean((1, 2, 3)) / (3 * 16 * 16)
    raw = np.zeros((2, 32, 32))
    raw[:, 16:, 16:] = slope[:, None, None] * (pixels[:, :, 16:, 16:] - 0.5).sum(1)
    for row, column in ((0, 0), (16, 16), (31, 31), (20, 15), (31, 25)):
        box = raw[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        np.testing.assert_allclose(heat[:, row, column], box.mean((1, 2)), atol=1e-6)
    assert not heat[:, :15, :].any()
    assert heat[:, 17:, 17:].abs().max() > 0


def test_a_heat_map_leaves_classifier_and_images_without_gradients(biased):
    images = torch.rand(1, 3, 64, 64)
    for classifier, size in ((biased, biased.feature_size), (PatchMeans(), 4)):
        heat = component_heatmap(classifier, images, torch.ones(size))
        assert not heat.requires_grad
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in biased.parameters())


def test_an_overlay_is_brightest_where_the_heat_is_and_shows_the_picture_elsewhere():
    image = np.full((20, 20, 3), 100, dtype=np.uint8)
    image[:, 10:] = 30
    heat = np.zeros((20, 20))
    heat[4:8, 4:8], heat[15, 15] = 2.0, -9.0
    shown = overlay(image, heat)
    assert (shown.dtype, shown.shape) == (np.uint8, image.shape)
    brightness = shown.sum(2, dtype=int)
    assert brightness[5, 5] > brightness[0, 0] > brightness[0, 15]
    assert brightness[15, 15] == brightness[0, 15]
    assert np.isfinite(overlay(image, np.zeros((20, 20)))).all()
