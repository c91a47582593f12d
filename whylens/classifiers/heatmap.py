"""Where in an image a component (or a neuron) sits: heat of a direction in features.

Four ways, the first that the classifier's structure allows:

- Features that are the mean of a map: alpha_l is the mean over positions of <d_l, map> minus a
  constant, so the map of <d_l, map(position)> is exact (class activation mapping, Zhou et al.
  2016).
- A vision transformer: attention times its gradient, rolled out over the blocks (Chefer et al.
  2021, "Generic attention-model explainability", equations 5 and 6).
- Another CNN: GradCAM of alpha on its last map (Selvaraju et al. 2017; captum).
- Anything else: the gradient of alpha by the pixels, times their deviation from grey.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F

from whylens.classifiers.classifier import Classifier
from whylens.classifiers.elsewhere import Elsewhere
from whylens.classifiers.structure import VisionTransformer

# How far the pointing game may miss, as a part of the image's side.
MARGIN = 15 / 224


def component_heatmap(classifier: Classifier, images: Tensor, direction: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [0, 1], d_l [D] (or [B, D]) -> heat [B, H, W].

    The mean over positions of an exact map is <d_l, phi(x)>; negative where the component is
    pushed down. Of the other ways only the pattern counts, not its scale; a transformer's is never
    negative.
    """
    if isinstance(classifier, Elsewhere):
        heat: Tensor = classifier.asked(component_heatmap, classifier, images, direction)
        return heat
    rows = direction.to(images).expand(len(images), -1)
    with torch.no_grad():
        features = classifier.feature_map(images)
    if features is not None:
        coarse = torch.einsum("bd,bdhw->bhw", rows, features)
        return _enlarge(coarse, images)
    found = None
    if (transformer := classifier.transformer()) is not None:
        found = _attention_rollout(classifier, transformer, images, rows)
    elif (layer := classifier.last_map()) is not None:
        found = _grad_cam(classifier, layer, images, rows)
    return _gradient_map(classifier, images, rows) if found is None else found


def _enlarge(coarse: Tensor, images: Tensor) -> Tensor:
    """[B, h, w] -> [B, H, W] of the images."""
    size = images.shape[-2:]
    return F.interpolate(coarse[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _attention_rollout(
    classifier: Classifier, transformer: VisionTransformer, images: Tensor, rows: Tensor
) -> Tensor | None:
    """R <- R + mean over heads of (gradient * attention)+ R, block after block, read at the tokens
    that alpha is read from (the class token, or all that are pooled). None: no patch tokens left.
    """
    with torch.enable_grad(), transformer.recording() as recorded:
        pixels = images.detach().clone().requires_grad_(True)
        alpha = (classifier.features(pixels) * rows).sum()
    tokens = recorded.tokens
    height, width = transformer.grid
    count = transformer.prefix + height * width
    if tokens is None or any(a.shape[-2:] != (count, count) for a in recorded.attention):
        return None
    # Attention of a block after which nothing reads the tokens has no gradient.
    asked = [get_gradient_edge(tokens), *recorded.edges]
    found = torch.autograd.grad(alpha, asked, allow_unused=True)
    read = found[0].norm(dim=2)  # [B, T]
    steps = []
    for attention, gradient in zip(recorded.attention, found[1:], strict=True):
        if gradient is not None:
            weighted = gradient.reshape(attention.shape) * attention
            steps.append(weighted.clamp_min(0).mean(1))
    if not steps:
        return None
    # alpha has no unit: the strongest mixing of all blocks counts as one.
    strongest = torch.stack([step.sum(2).amax(1) for step in steps]).amax(0)
    identity = torch.eye(count).to(images)
    relevance = identity.expand(len(images), -1, -1)
    for step in steps:
        share = step / strongest.clamp_min(1e-30)[:, None, None]
        relevance = relevance + share @ relevance
    shares = read / read.sum(1, keepdim=True).clamp_min(1e-30)
    heat = torch.einsum("bt,btu->bu", shares, relevance - identity)[:, transformer.prefix :]
    return _enlarge(heat.reshape(len(images), height, width), images)


def _grad_cam(
    classifier: Classifier, layer: torch.nn.Module, images: Tensor, rows: Tensor
) -> Tensor | None:
    """None where the layer's output is no map [B, C, h, w]."""
    from captum.attr import LayerGradCam

    def alpha(pixels: Tensor) -> Tensor:
        return (classifier.features(pixels) * rows).sum(1)

    pixels = images.detach().clone().requires_grad_(True)
    heat: Tensor = LayerGradCam(alpha, layer).attribute(pixels)
    return _enlarge(heat.detach()[:, 0], images) if heat.ndim == 4 else None


def _gradient_map(classifier: Classifier, images: Tensor, rows: Tensor) -> Tensor:
    pixels = images.detach().clone().requires_grad_(True)
    alpha = (classifier.features(pixels) * rows).sum()
    (gradient,) = torch.autograd.grad(alpha, pixels)
    heat = (gradient * (pixels.detach() - 0.5)).sum(1, keepdim=True)
    # Single pixels of a gradient are noise; a blur of a sixteenth of the image is readable.
    kernel = max(3, images.shape[-1] // 16 // 2 * 2 + 1)
    return F.avg_pool2d(heat, kernel, 1, kernel // 2, count_include_pad=False)[:, 0]


def share_inside(heat: Tensor, masks: Tensor) -> Tensor:
    """Share of the positive heat [B, H, W] that lies inside masks [B, H, W] bool, [B].

    NaN where no heat is positive. Heat that knows nothing of the mask gets the mask's area.
    """
    positive = heat.clamp_min(0)
    return (positive * masks).sum((1, 2)) / positive.sum((1, 2))


def points_inside(heat: Tensor, masks: Tensor) -> Tensor:
    """The pointing game: whether the hottest position of heat [B, H, W] is inside masks, [B] bool.

    A miss by up to 15 pixels at 224 counts as a hit (Zhang et al. 2016, "Top-down neural attention
    by excitation backprop"). Where many positions are equally hot (an enlarged map is flat at its
    border), their middle counts.
    """
    height, width = heat.shape[1:]
    margin = round(MARGIN * min(height, width))
    wide = F.max_pool2d(masks[:, None].float(), 2 * margin + 1, 1, margin)[:, 0] > 0
    hottest = heat.amax((1, 2), keepdim=True)
    flat = heat >= hottest - 1e-6 * hottest.abs()
    rows = torch.arange(height).to(heat)[:, None].expand(height, width)
    columns = torch.arange(width).to(heat).expand(height, width)
    count = flat.sum((1, 2))
    row, column = ((flat * at).sum((1, 2)) / count for at in (rows, columns))
    return wide[torch.arange(len(heat)), row.round().long(), column.round().long()]


def overlay(image: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Heat [H, W] laid over an image [H, W, 3] uint8: bright where the component is raised."""
    import matplotlib

    positive = np.clip(np.asarray(heat, dtype=np.float64), 0, None)
    strength = positive / max(float(positive.max(initial=0)), 1e-12)
    colours = matplotlib.colormaps["inferno"](strength)[..., :3]
    share = (0.15 + 0.6 * strength)[..., None]
    grey = image.mean(2, keepdims=True) / 255
    mixed = (0.6 * grey + 0.4 * image / 255) * (1 - share) + colours * share
    blended: NDArray[np.uint8] = np.round(np.clip(mixed, 0, 1) * 255).astype(np.uint8)
    return blended
