"""Inversion: from images to the noise, and what must be added to the chain, that lead back to them.

DDIM inversion (Song, Meng and Ermon 2021) walks the chain backwards at guidance 1. A guided chain
from the noise that it finds does not lead back; two ways to make it:

    direct     what a guided step lacks of the trajectory's latents is added to it (Ju et al. 2024,
               "Direct Inversion"): exact, for one guided chain
    null text  the null text of each step is optimised until the step lands on the trajectory
               (Mokady et al. 2023): nothing is added to latents, for about ten guided chains and
               gradients

Neither gets past the autoencoder, whose encoder loses what its decoder could show. `encode_closely`
finds the latents that decode to an image, by gradients through the decoder alone. Measured on four
images that the planted sampler made, PSNR in dB of what comes back, the lowest and the highest:

    encoder steps, decoded                          0: 33-36, 10: 41-44, 20: 44-48, 40: 50-54
    direct, T = 20, as encoded                      33-36, with 10 encoder steps 41-44
    null text, T = 20, 10 encoder steps, rate 0.1   37-41, rate 0.01 (the paper's) 31-32
    null text, T = 10, 10 encoder steps, rate 0.1   30-35, rate 0.01 21-25
    DDIM inversion alone, T = 20, 10 encoder steps  25-28 (two of them)

Direct inversion is thus the better one, at a tenth of the cost, and the default.

DDIM inversion supposes that a step changes little. Of a chain of one to four steps it asks the
U-Net, at the noisiest time, about an image without noise, and takes what it says for the noise. A
third way, exact as well, begins at noise such as the model knows:

    noised     the image's latents with noise, sqrt(a) z + sqrt(1 - a) n, are the trajectory, and
               what a guided step lacks of it is added to its latents

(Huberman-Spiegelglas et al. 2024; with few-step models Deutch et al. 2024, with latent consistency
models Xu et al. 2024.) The noise is the same for every image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from whylens.batch import Batch
from whylens.diffusion.adam import Adam
from whylens.diffusion.chain import chain_step
from whylens.diffusion.conditioning import Conditioning, condition
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import Step, fresh_noise, schedule
from whylens.errors import UsageError

# Mokady et al. 2023, as their code has them.
INNER_STEPS, LEARNING_RATE, STOP = 10, 0.01, 1e-5
# Of `encode_closely`: Adam's largest step, in latents of about unit variance.
ENCODER_RATE = 0.05
# Of the noise of `noised_trajectory`, and of what takes its place where an image may change.
NOISE_SEED = 0


@dataclass(frozen=True)
class Inversion(Batch):
    """What leads the guided chain back to B images.

    latents and noise [B, c, h, w]; with them either offsets [B, T, c, h, w] or null_delta
    [B, T, L, C]. Peak signal to noise ratios [B] in dB, against the images: `psnr` of what the
    chain leads back to, `decoder_psnr` of the latents that were inverted, decoded.
    """

    latents: Tensor
    noise: Tensor
    offsets: Tensor | None
    null_delta: Tensor | None
    psnr: Tensor
    decoder_psnr: Tensor

    def onto(self, conditioning: Conditioning) -> Conditioning:
        """The conditioning of the images' prompts, or of others, led from this inversion."""
        return replace(conditioning, offsets=self.offsets, null_delta=self.null_delta)


def invert_images(
    sampler: Sampler,
    images: Tensor,
    prompts: Sequence[str],
    *,
    kind: Literal["direct", "null_text", "noised"],
    steps: int,
    guidance_scale: float,
    null_text_rate: float = LEARNING_RATE,
    encoder_steps: int = 0,
) -> Inversion:
    """Invert images [B, 3, S, S] in [0, 1] that show what `prompts` say.

    Raises
    ------
    UsageError
        If images are of another size than the sampler's, or null text lacks guidance.
    """
    latents = encode_closely(sampler, images, encoder_steps)
    own = condition(sampler, list(prompts))
    kinds: dict[str, Callable[..., tuple[Tensor, Conditioning, Tensor]]] = {
        "direct": invert,
        "noised": partial(invert, along=noised_trajectory),
        "null_text": partial(invert_null_text, rate=null_text_rate),
    }
    inverted = kinds[kind]
    noise, found, back = inverted(sampler, latents, own, steps=steps, guidance_scale=guidance_scale)
    with torch.no_grad():
        decoded, led = sampler.decode(latents), sampler.decode(back)
    images = images.to(led)
    return Inversion(
        latents, noise, found.offsets, found.null_delta, psnr(led, images), psnr(decoded, images)
    )


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal to noise ratio [B] in dB between images [B, 3, S, S] in [0, 1]; inf if equal."""
    return -10 * (images - others).square().flatten(1).mean(1).log10()


def encode_closely(sampler: Sampler, images: Tensor, steps: int) -> Tensor:
    """Latents [B, c, h, w] of images [B, 3, S, S]: the encoder's, led nearer by `steps` of Adam.

    Each image keeps the latents whose decoded image was nearest to it; 0 steps: the encoder's.
    """
    with torch.no_grad():
        latents = sampler.encode(images)
    if steps == 0:
        return latents
    wanted = images.to(latents)
    best, least = latents, torch.full((len(latents),), torch.inf, device=latents.device)
    adam = Adam()
    for step in range(steps + 1):
        with torch.enable_grad():
            latents.requires_grad_(True)
            errors = (sampler.decode(latents) - wanted).square().flatten(1).mean(1)
            (gradient,) = torch.autograd.grad(errors.sum(), latents)
        latents, errors = latents.detach(), errors.detach()
        nearer = errors < least
        least = torch.where(nearer, errors, least)
        best = torch.where(nearer.view(-1, 1, 1, 1), latents, best)
        direction = adam.directions({"latents": gradient})["latents"]
        latents = latents - ENCODER_RATE * (1 - step / steps) * direction
    return best


@torch.no_grad()
def ddim_trajectory(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float = 1.0,
) -> Tensor:
    """DDIM inversion's trajectory [B, T + 1, c, h, w], from noise to `latents` [B, c, h, w].

    It goes without guidance; only a U-Net that takes the guidance scale as an input gets it.
    """
    trajectory = [latents]
    scale = guidance_scale if sampler.embeds_guidance else 1.0
    embeddings = conditioning.at_each_step(steps)
    for index, step in reversed(list(enumerate(schedule(sampler, steps)))):
        # A step backwards: what the model predicts here, taken to the noisier time.
        backwards = Step(step.time, step.alpha_bar_after, step.alpha_bar)
        noisier = chain_step(sampler, trajectory[-1], backwards, embeddings[index], scale).latents
        trajectory.append(noisier)
    return torch.stack(trajectory[::-1], 1)


@torch.no_grad()
def noised_trajectory(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float = 1.0,
) -> Tensor:
    """`latents` [B, c, h, w] with the noise of each step [B, T + 1, c, h, w], noisiest first.

    The noise stays the same in a chain that takes on none; of a consistency model each step has
    the noise that its chain takes on. The prompts play no part.
    """
    first = sampler.noise([NOISE_SEED], 1)[0].to(latents)
    taken_on = fresh_noise(sampler, [NOISE_SEED], steps)
    times = schedule(sampler, steps)
    trajectory = [
        math.sqrt(times[0].alpha_bar) * latents + math.sqrt(1 - times[0].alpha_bar) * first
    ]
    for index, step in enumerate(times):
        share = step.alpha_bar_after
        noise = math.sqrt(1 - share) * first if taken_on is None else taken_on[:, index]
        trajectory.append(math.sqrt(share) * latents + noise)
    return torch.stack(trajectory, 1)


@torch.no_grad()
def invert(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float,
    along: Callable[..., Tensor] = ddim_trajectory,
) -> tuple[Tensor, Conditioning, Tensor]:
    """Exact inversion: (noise, conditioning with offsets, latents that the chain leads back to).

    The difference that a guided step makes to the trajectory that `along` finds, DDIM inversion's
    or that of the noised latents, is its offset.
    """
    trajectory = along(sampler, latents, conditioning, steps=steps, guidance_scale=guidance_scale)
    embeddings = conditioning.at_each_step(steps)
    offsets, following = [], latents
    for index, step in enumerate(schedule(sampler, steps)):
        before, after = trajectory[:, index], trajectory[:, index + 1]
        following = chain_step(sampler, before, step, embeddings[index], guidance_scale).latents
        offsets.append(after - following)
    noise = trajectory[:, 0]
    return noise, replace(conditioning, offsets=torch.stack(offsets, 1)), following + offsets[-1]


def invert_null_text(
    sampler: Sampler,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float,
    rate: float = LEARNING_RATE,
) -> tuple[Tensor, Conditioning, Tensor]:
    """Null-text inversion: (noise, conditioning with null deltas, latents that are led back to).

    At each step up to ten steps of Adam, at `rate` (1 - i / 100) for step i, until the mean squared
    distance to the trajectory is below `STOP`; each image has its own state and its own end. A step
    starts from the null text that the one before it found. (The paper stops below 1e-5 + 2e-5 i.)

    Raises
    ------
    UsageError
        If there is no guidance, so that the null text has no effect.
    """
    if sampler.embeds_guidance:
        raise UsageError(
            f"null-text inversion needs a null text, which the sampler {sampler.name!r} never gets "
            "(it takes the guidance scale as an input): take inversion = direct or noised"
        )
    if guidance_scale <= 1:
        raise UsageError(
            f"null-text inversion needs guidance: guidance_scale is {guidance_scale:g}, where the "
            "null text has no effect; take inversion = direct, which is exact at any scale"
        )
    trajectory = ddim_trajectory(sampler, latents, conditioning, steps=steps)
    embeddings = conditioning.at_each_step(steps)
    current, null = trajectory[:, 0], conditioning.null
    deltas = []
    for index, step in enumerate(schedule(sampler, steps)):
        step_rate = rate * (1 - index / 100)
        going = torch.ones(len(latents), dtype=torch.bool, device=latents.device)
        adam = Adam()
        for _ in range(INNER_STEPS):
            with torch.enable_grad():
                null = null.detach().requires_grad_(True)
                own = replace(embeddings[index], null=null)
                following = chain_step(sampler, current, step, own, guidance_scale).latents
                losses = (following - trajectory[:, index + 1]).square().flatten(1).mean(1)
                (gradient,) = torch.autograd.grad(losses.sum(), null)
            null = null.detach()
            going &= losses.detach() >= STOP
            if not going.any():
                break
            direction = adam.directions({"null": gradient})["null"]
            null = null - going.view(-1, 1, 1) * step_rate * direction
        deltas.append(null - conditioning.null)
        with torch.no_grad():
            own = replace(embeddings[index], null=null)
            current = chain_step(sampler, current, step, own, guidance_scale).latents
    noise = trajectory[:, 0]
    return noise, replace(conditioning, null_delta=torch.stack(deltas, 1)), current
