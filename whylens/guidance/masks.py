"""Foreground masks: where a counterfactual may change an image.

A mask is 1 inside, 0 outside, soft at the edge. It comes from where the sampler's cross-attention
looks for the class word (DiG-IN, section 5), or is given; either is grown and blurred, so that
another shape has room and no edge shows.
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.diffusion.attention import AttentionMaps
from whylens.diffusion.conditioning import Conditioning
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import schedule

# Steepness of the squashing, and the level of a normalised map that becomes 1/2.
STEEPNESS, LEVEL = 20.0, 0.4
# Pixels at 512 px, after DiG-IN's.
ERODED, BLURRED, REFERENCE = 3, 10, 512


def foreground(
    sampler: Sampler,
    trajectory: Tensor,
    before: Conditioning,
    after: Conditioning,
    attention: AttentionMaps,
    prompts_before: Sequence[str],
    prompts_after: Sequence[str],
) -> Tensor:
    """Raw masks [B, 1, S, S] in [0, 1] of what changes from one prompt to the other.

    The mean of two maps, squashed: where the image's cross-attention looks for the words that the
    other prompt lacks (DiG-IN), and where predictions of the two prompts differ on the image's
    trajectory (Couairon et al. 2023, "DiffEdit"). On 48 planted drawings their overlap with the
    object's true mask (intersection over union) is 0.54 and 0.61, of the mean 0.65; with a margin
    of a sixteenth it holds 97 % of the object and 27 % of the rest (DiG-IN's 0.04: 96 %, 23 %). A
    centred disc of the object's own area has 0.62 there, since these objects stand near the middle;
    where they are more than 9 pixels away from it, which the sampler was not trained on, the disc
    has 0.25 and the mask 0.48.

    Parameters
    ----------
    trajectory, attention
        Of the image's own chain: `whylens.diffusion.chain.watch`.
    before, after
        Conditioning of the two prompts; only their texts count.
    """
    size = sampler.image_size
    words = [
        changed(own, other)
        for own, other in zip(
            sampler.tokens(prompts_before), sampler.tokens(prompts_after), strict=True
        )
    ]
    looked = attention.word_maps(words)[:, None]
    differs = prediction_gap(sampler, trajectory, before, after)[:, None]
    both = torch.stack(
        [
            F.interpolate(one, size=(size, size), mode="bilinear", align_corners=False)
            for one in (looked.to(differs), differs)
        ]
    ).mean(0)
    return squashed(both)


def squashed(maps: Tensor) -> Tensor:
    """Maps that go from 0 to 1 as raw masks: 1/2 at `LEVEL`, steep there."""
    return torch.sigmoid(STEEPNESS * (maps - LEVEL))


def changed(own: Sequence[int], other: Sequence[int]) -> list[int]:
    """Places of the tokens that the other prompt lacks; all of them where it lacks none.

    Padding, which ends a prompt as its last token repeated, is no word.
    """
    own, other = _unpadded(own), _unpadded(other)
    matcher = difflib.SequenceMatcher(None, own, other, autojunk=False)
    kept = {
        start + offset for start, _, size in matcher.get_matching_blocks() for offset in range(size)
    }
    return [place for place in range(len(own)) if place not in kept] or list(range(len(own)))


def _unpadded(tokens: Sequence[int]) -> list[int]:
    words = list(tokens)
    while len(words) > 1 and words[-1] == words[-2]:
        words.pop()
    return words


@torch.no_grad()
def prediction_gap(
    sampler: Sampler, trajectory: Tensor, before: Conditioning, after: Conditioning
) -> Tensor:
    """Where predictions of two prompts differ, [B, h, w] in [0, 1], in a trajectory's later half.

    Root mean square over channels and steps, each step scaled to a mean of 1; the 95th percentile
    of an image becomes 1.
    """
    steps = trajectory.shape[1] - 1
    total = torch.zeros_like(trajectory[:, 0, 0])
    for index, step in enumerate(schedule(sampler, steps)):
        if 2 * index < steps - 1:
            continue
        latents = sampler.seen(trajectory[:, index], step.alpha_bar)
        gap = sampler.predict(latents, step.time, before.text, before.pooled)
        gap = gap - sampler.predict(latents, step.time, after.text, after.pooled)
        square = gap.square().mean(1)
        total += square / square.mean((1, 2), keepdim=True).clamp_min(1e-20)
    root = total.sqrt()
    top = root.flatten(1).quantile(0.95, dim=1).view(-1, 1, 1).clamp_min(1e-20)
    return (root / top).clamp(0, 1)


def with_margin(masks: Tensor, margin: float) -> Tensor:
    """Masks [B, 1, S, S] without specks, grown and blurred: soft masks [B, 1, S, S] in [0, 1].

    Erosion by 3 pixels at 512 px, dilation by `margin` of the side, one pixel at least, and a blur
    of 10 pixels at 512 px.
    """
    scale = masks.shape[-1] / REFERENCE
    eroded = -_largest_near(-masks, round(ERODED * scale))
    grown = _largest_near(eroded, max(1, round(margin * masks.shape[-1])))
    return _blurred(grown, max(0.5, BLURRED * scale))


def _largest_near(masks: Tensor, radius: int) -> Tensor:
    """The largest value in a disc around each pixel."""
    if radius < 1:
        return masks
    out = masks
    for dy in range(-radius, radius + 1):
        width = int((radius**2 - dy**2) ** 0.5)
        rows = F.max_pool2d(masks, (1, 2 * width + 1), stride=1, padding=(0, width))
        moved = F.pad(rows, (0, 0, radius, radius), value=-torch.inf)
        out = torch.maximum(out, moved[..., radius + dy : radius + dy + masks.shape[-2], :])
    return out


def _blurred(masks: Tensor, deviation: float) -> Tensor:
    reach = max(1, round(3 * deviation))
    places = torch.arange(-reach, reach + 1, dtype=masks.dtype, device=masks.device)
    weights = torch.exp(-0.5 * (places / deviation) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(masks, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
