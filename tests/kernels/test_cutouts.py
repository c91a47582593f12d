import numpy as np
import pytest
import torch
from torch.nn import functional as F

from whylens.kernels.cutouts import cutouts, normal, reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float64: 1e-12}


def drawn(views, shape, dtype=torch.float32, smallest=0.3, seed=0):
    """Images, boxes inside of them, and keys."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    sides = torch.tensor(shape[2:]) * (
        smallest + (1 - smallest) * torch.rand(views, shape[0], 2, generator=generator)
    )
    corners = (torch.tensor(shape[2:]) - sides) * torch.rand(sides.shape, generator=generator)
    keys = torch.randint(2**63 - 1, shape[:1], generator=generator)
    return images.requires_grad_(), torch.cat([corners, sides], -1), keys


def compare(images, boxes, keys, **options):
    found = cutouts(images, boxes, keys, **options)
    expected = reference(images, boxes, keys, **options)
    assert found.dtype == images.dtype
    assert found.shape == expected.shape
    tolerance = TOLERANCE[images.dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found)
    (one,), (other,) = (
        torch.autograd.grad((views * weights).sum(), images) for views in (found, expected)
    )
    assert one.dtype == images.dtype
    size = max(float(other.abs().max()), 1.0) if other.numel() else 1.0
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_values_and_gradients_are_the_references(dtype):
    compare(*drawn(2, (2, 3, 13, 17), dtype), size=9, noise=0.1)


@pytest.mark.parametrize(
    ("views", "shape", "size"),
    [(1, (1, 1, 1, 1), 1), (1, (1, 1, 1, 5), 7), (4, (3, 1, 16, 16), 16), (1, (1, 2, 40, 24), 5),
     (0, (2, 3, 8, 8), 4), (2, (0, 3, 8, 8), 4), (2, (1, 1, 11, 9), 37)],
)  # fmt: skip
def test_odd_shapes(views, shape, size):
    compare(*drawn(views, shape), size=size)


def test_layouts_of_every_kind():
    images, boxes, keys = drawn(2, (2, 3, 12, 10))
    last = images.detach().to(memory_format=torch.channels_last).requires_grad_()
    compare(last, boxes, keys, size=6)
    flipped = images.detach().transpose(2, 3).requires_grad_()
    compare(flipped, boxes[..., [1, 0, 3, 2]], keys, size=6, noise=0.2)
    compare(images, boxes.transpose(0, 1).contiguous().transpose(0, 1), keys, size=6)
    whole = torch.tensor([0.0, 0.0, 12.0, 10.0]).expand(2, 2, 4)
    compare(images, whole, keys, size=5)


@pytest.mark.parametrize("side", [8, 12, 24])
def test_a_crop_of_whole_pixels_is_averaged_as_torch_does(side):
    images, _, keys = drawn(1, (1, 3, 24, 24))
    box = torch.tensor([24.0 - side, 3.0 if side < 24 else 0.0, side, side]).view(1, 1, 4)
    top, left = 24 - side, int(box[0, 0, 1])
    cut = images[:, :, top : top + side, left : left + side]
    expected = F.adaptive_avg_pool2d(cut, 4)
    torch.testing.assert_close(cutouts(images, box, keys, size=4)[0], expected)


def test_the_whole_image_at_its_size_is_itself_and_larger_is_bilinear():
    images, _, keys = drawn(1, (2, 3, 9, 9))
    whole = torch.tensor([0.0, 0.0, 9.0, 9.0]).expand(1, 2, 4)
    torch.testing.assert_close(cutouts(images, whole, keys, size=9)[0], images)
    expected = F.interpolate(images, size=21, mode="bilinear", align_corners=False)
    torch.testing.assert_close(cutouts(images, whole, keys, size=21)[0], expected)


def noise_of(keys, views=3, channels=3, size=32):
    """The noise alone."""
    keys = torch.tensor(keys)
    images = torch.zeros(len(keys), channels, 4, 4)
    boxes = torch.tensor([0.0, 0.0, 4.0, 4.0]).expand(views, len(keys), 4)
    return cutouts(images, boxes, keys, size=size, noise=1.0)


def test_noise_is_normal_and_independent():
    found = noise_of([3, 4, 2**62])
    values = found.double().flatten()
    assert abs(float(values.mean())) < 0.015
    assert float(values.std()) == pytest.approx(1, abs=0.02)
    assert float((values**4).mean()) == pytest.approx(3, abs=0.2)
    assert float((values.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.01)
    # No two planes, and no plane and its neighbour's shift, have anything in common.
    planes = found.flatten(0, 2).flatten(1).numpy()
    assert np.abs(np.corrcoef(planes) - np.eye(len(planes))).max() < 0.13
    assert abs(np.corrcoef(planes[:, 1:].ravel(), planes[:, :-1].ravel())[0, 1]) < 0.02


def test_a_problems_noise_depends_on_its_key_and_view_alone():
    together = noise_of([5, 6, 7])
    assert torch.equal(noise_of([7])[:, 0], together[:, 2])
    assert torch.equal(noise_of([5, 6, 7], views=2), together[:2])
    assert not torch.equal(together[:, 0], together[:, 1])


def test_the_noise_is_numpys_philox():
    bits = np.random.Philox(key=11).random_raw(12).view(np.uint16)
    uniform = (bits.astype(np.float64) + 0.5) / 65536
    expected = torch.special.ndtri(torch.from_numpy(uniform)).float().view(1, 1, 3, 4, 4)
    assert torch.equal(normal(torch.tensor([11]), 1, 3, 4), expected)


def test_wrong_arguments_are_refused():
    images, boxes, keys = drawn(2, (2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"images have to be \[b, C, H, W\], not \(3, 8, 8\)"):
        cutouts(images[0], boxes, keys, size=4)
    with pytest.raises(ValueError, match=r"boxes have to be \[V, 2, 4\], not \(2, 1, 4\)"):
        cutouts(images, boxes[:, :1], keys, size=4)
    with pytest.raises(ValueError, match=r"keys have to be \[2\] on cpu, not \(1,\)"):
        cutouts(images, boxes, keys[:1], size=4)
    with pytest.raises(TypeError, match="keys have to be int64"):
        cutouts(images, boxes, keys.int(), size=4)
    with pytest.raises(ValueError, match="size has to be 1 or more and noise 0 or more"):
        cutouts(images, boxes, keys, size=4, noise=-1.0)
