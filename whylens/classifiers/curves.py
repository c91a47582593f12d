"""Deletion and insertion: whether heat lies on what a classifier goes by (RISE).

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation" (BMVC 2018): pixels are
taken out of an image, or put into a blurred one, by falling heat; the measure is the area under p_k
over the part of the pixels that is out, or in. Heat that finds what counts makes p_k fall soon, and
rise soon: low deletion, high insertion. How low and high also depends on the classifier and the
image: random heat, in patches as coarse as RISE's own masks, says what any heat map gets.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from whylens.classifiers.classifier import Classifier

# What is out is grey; what is not yet in is blurred by 5 pixels of 224, as published.
GREY, DEVIATION = 0.5, 5 / 224
# Squares a side of random heat, RISE's, how many times it is drawn, and from what seed.
SQUARES, DRAWS, SEED = 7, 3, 0
# Images that are asked about at once.
BATCH = 64


def deletion(
    classifier: Classifier, images: Tensor, heat: Tensor, classes: Tensor, steps: int
) -> Tensor:
    """Areas under p_k as pixels become grey by falling heat, [B] in [0, 1].

    Images [B, 3, H, W] in [0, 1], heat [B, H, W], classes k [B]; an equal number of pixels goes in
    each of `steps` steps.
    """
    return _area(classifier, images, torch.full_like(images, GREY), heat, classes, steps)


def insertion(
    classifier: Classifier, images: Tensor, heat: Tensor, classes: Tensor, steps: int
) -> Tensor:
    """Areas under p_k as pixels come into the blurred images by falling heat: as `deletion`."""
    deviation = DEVIATION * images.shape[-1]
    # The published kernel reaches one deviation far.
    size = 2 * max(1, round(deviation)) + 1
    blurred = gaussian_blur(images, [size, size], [deviation, deviation])
    return _area(classifier, blurred, images, heat, classes, steps)


def random_heat(heat: Tensor) -> Tensor:
    """Heat [DRAWS, B, H, W] that knows nothing of the images, for each heat map [B, H, W].

    Uniform values on a coarse grid, bilinear in between; the same for every image.
    """
    generator = torch.Generator().manual_seed(SEED)
    grid = torch.rand((1, DRAWS, SQUARES, SQUARES), generator=generator)
    drawn: Tensor = functional.interpolate(grid, heat.shape[1:], mode="bilinear")[0]
    return drawn[:, None].expand(-1, len(heat), -1, -1).to(heat)


@torch.inference_mode()
def _area(
    classifier: Classifier, start: Tensor, end: Tensor, heat: Tensor, classes: Tensor, steps: int
) -> Tensor:
    curve = [
        torch.cat([classifier.probabilities(part) for part in torch.split(mixed, BATCH)])
        .gather(1, classes[:, None])
        for mixed in replaced(start, end, heat, steps)
    ]  # fmt: skip
    areas: Tensor = torch.trapezoid(torch.cat(curve, 1), dx=1 / steps, dim=1)
    return areas


def replaced(start: Tensor, end: Tensor, order: Tensor, steps: int) -> Iterator[Tensor]:
    """`start` [B, 3, H, W] with ever more pixels of `end`, by falling `order` [B, H, W].

    `steps` + 1 images each: none of `end`, an equal number more in each step, all of it. Of equal
    pixels the first comes first.
    """
    batch, _, height, width = start.shape
    ranked = order.flatten(1).argsort(dim=1, descending=True, stable=True)
    # The place of each pixel in the order.
    place = ranked.argsort(dim=1).view(batch, 1, height, width)
    for step in range(steps + 1):
        yield torch.where(place < round(step * height * width / steps), end, start)
