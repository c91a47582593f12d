"""Inception's features, against its layers called one by one, and the files that are taken."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import Inception3

from whylens.errors import UsageError
from whylens.guidance.inception import load_inception


def network(classes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Inception3(num_classes=classes, aux_logits=False, init_weights=False).eval()
    return made.requires_grad_(False)


def block(made, x, pooled):
    """An Inception block's branches, with another pooling: as torchvision has them."""
    *others, _ = made._forward(x)
    return torch.cat([*others, made.branch_pool(pooled(x))], 1)


def by_hand(made, images, inside, last):
    """The features, layer after layer."""
    x = F.interpolate(images, size=(299, 299), mode="bilinear") * 2 - 1
    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
        x = getattr(made, name)(x)
    x = made.Conv2d_4a_3x3(made.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
    x = F.max_pool2d(x, 3, 2)
    for name in ("5b", "5c", "5d"):
        x = block(getattr(made, f"Mixed_{name}"), x, inside)
    x = made.Mixed_6a(x)
    for name in ("6b", "6c", "6d", "6e"):
        x = block(getattr(made, f"Mixed_{name}"), x, inside)
    x = block(made.Mixed_7b, made.Mixed_7a(x), inside)
    return block(made.Mixed_7c, x, last).mean((2, 3))


def mean_of_what_is_there(x):
    ones = F.pad(torch.ones_like(x[:1, :1]), (1, 1, 1, 1))
    sums = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) * 9
    return sums / (F.avg_pool2d(ones, 3, 1) * 9)


def mean_with_padding(x):
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)


def largest(x):
    return F.max_pool2d(x, 3, 1, 1)


@pytest.mark.parametrize("classes", [1008, 1000])
def test_features_are_those_of_the_network_that_the_file_is_of(tmp_path, classes):
    made, path = network(classes), tmp_path / "inception.pth"
    torch.save(made.state_dict(), path)
    images = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    pools = (mean_of_what_is_there, largest) if classes == 1008 else (mean_with_padding,) * 2
    with torch.inference_mode():
        found, expected = load_inception(path)(images), by_hand(made, images, *pools)
    assert found.shape == (1, 2048)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_other_files_are_named(tmp_path):
    torch.save({"fc.weight": torch.zeros(10, 2048)}, tmp_path / "ten.pth")
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, tmp_path / "head.pth")
    for name in ("ten", "head"):
        with pytest.raises(UsageError, match=rf"{name}\.pth does not hold Inception v3's weights"):
            load_inception(tmp_path / f"{name}.pth")
    with pytest.raises(UsageError, match=r"inception: no file .*gone\.pth"):
        load_inception(tmp_path / "gone.pth")
