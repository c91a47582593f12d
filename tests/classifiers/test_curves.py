"""Deletion and insertion of classifiers whose curves are known."""

import pytest
import torch

from whylens.classifiers.curves import DRAWS, deletion, insertion, random_heat, replaced


class Corner:
    """p_0 is 1 where the first pixel is bright, else 0."""

    def probabilities(self, images):
        bright = (images[:, 0, 0, 0] > 0.9).float()
        return torch.stack([bright, 1 - bright], 1)


class Brightness:
    """p_0 is the mean of the image."""

    def probabilities(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack([mean, 1 - mean], 1)


def spot(size):
    """An image whose first pixel is bright, and heat on it, on all others alike, and nowhere."""
    image = torch.zeros(1, 3, size, size)
    image[..., 0, 0] = 1
    on = torch.zeros(1, size, size)
    on[:, 0, 0] = 1
    return image.expand(2, -1, -1, -1), torch.cat([on, 1 - on])


def test_heat_on_what_counts_has_the_smallest_deletion_and_the_largest_insertion():
    images, heat = spot(64)
    classes = torch.tensor([0, 0])
    # p is 1 before the first of sixteen steps, and 0 from there on; or 1 until the last step.
    found = deletion(Corner(), images, heat, classes, 16).tolist()
    assert found == pytest.approx([1 / 32, 1 - 1 / 32])
    # A blurred spot is not bright enough: p is 1 from the first step on, or at the end alone.
    found = insertion(Corner(), images, heat, classes, 16).tolist()
    assert found == pytest.approx([1 - 1 / 32, 1 / 32])
    # The other class has the rest.
    found = deletion(Corner(), images, heat, 1 - classes, 16).tolist()
    assert found == pytest.approx([1 - 1 / 32, 1 / 32])


def test_where_every_pixel_counts_alike_heat_makes_no_difference():
    images, heat = torch.ones(2, 3, 6, 6), torch.rand(2, 6, 6)
    # From 1 to grey's 1/2 along a line; a blurred even image is itself.
    classes = torch.tensor([0, 1])
    assert deletion(Brightness(), images, heat, classes, 9).tolist() == pytest.approx([0.75, 0.25])
    assert insertion(Brightness(), images, heat, classes, 9).tolist() == pytest.approx([1.0, 0.0])


def test_pixels_are_replaced_in_equal_numbers_by_falling_order():
    start, end = torch.zeros(1, 3, 2, 4), torch.ones(1, 3, 2, 4)
    order = torch.tensor([[[5.0, 1.0, 7.0, 3.0], [4.0, 2.0, 6.0, 0.0]]])
    seen = [mixed[0, 0].flatten().nonzero().flatten().tolist() for mixed in
            replaced(start, end, order, 4)]  # fmt: skip
    assert seen == [[], [2, 6], [0, 2, 4, 6], [0, 2, 3, 4, 5, 6], list(range(8))]


def test_random_heat_knows_nothing_of_the_image_and_is_the_same_again():
    drawn = random_heat(torch.rand(2, 64, 48))
    assert drawn.shape == (DRAWS, 2, 64, 48)
    assert torch.equal(drawn, random_heat(torch.rand(2, 64, 48)))
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert 0 <= drawn.min() < drawn.max() <= 1
    # Patches: neighbours are much alike, and draws are not.
    steps = (drawn[..., 1:] - drawn[..., :-1]).abs().mean()
    apart = (drawn[1:] - drawn[:-1]).abs().mean()
    assert steps < apart / 4
