"""What guidance at each denoising step shares: a noised start, one step, gradients at its x0."""

from collections.abc import Sequence

import torch
from torch import Tensor

from whylens.diffusion.chain import chain_step
from whylens.diffusion.conditioning import Embeddings
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import Step, schedule
from whylens.guidance.baselines.settings import steps_left
from whylens.guidance.objectives import Objective


class Noise:
    """Standard normal latents, drawn for each problem from a generator of its own."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def like(self, latents: Tensor) -> Tensor:
        """[B, c, h, w] of the shape, device and dtype of `latents`."""
        rows = [torch.randn(latents.shape[1:], generator=g) for g in self.generators]
        return torch.stack(rows).to(latents)


def later_steps(sampler: Sampler, steps: int, start: float) -> list[Step]:
    """The steps of a chain of `steps` that are left when it is entered at the part `start` of it.

    `start` in (0, 1], 1 is pure noise.
    """
    return schedule(sampler, steps)[steps - steps_left(steps, start) :]


def noised(latents: Tensor, alpha_bar: float, noise: Tensor) -> Tensor:
    """Latents [B, c, h, w] with noise: sqrt(a) z + sqrt(1 - a) n."""
    out: Tensor = alpha_bar**0.5 * latents + (1 - alpha_bar) ** 0.5 * noise
    return out


def predict(sampler: Sampler, latents: Tensor, prompt: Embeddings, step: Step) -> Tensor:
    """The prediction of x0 [B, c, h, w] under the prompt, without guidance; differentiable."""
    return chain_step(sampler, latents, step, prompt, 1.0).x0


def noise_in(latents: Tensor, x0: Tensor, alpha_bar: float) -> Tensor:
    """The noise that latents [B, c, h, w] hold if x0 is what they show."""
    out: Tensor = (latents - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
    return out


class StepImage:
    """One step's image: what it is, and how it depends on the latents, x0 prediction included.

    x0 [B, c, h, w] and image [B, 3, S, S] are detached. Nothing is differentiated beyond the step.
    """

    def __init__(self, sampler: Sampler, latents: Tensor, prompt: Embeddings, step: Step) -> None:
        with torch.enable_grad():
            self._latents = latents.detach().requires_grad_(True)
            x0 = predict(sampler, self._latents, prompt, step)
            self._image = sampler.decode(x0)
        self.x0, self.image = x0.detach(), self._image.detach()

    def gradient(self, objective: Objective, *, last: bool = False) -> tuple[Tensor, Tensor]:
        """(values [B], gradients by the latents [B, c, h, w]); `last` frees the step's graph."""
        values, slopes = objective.value_and_gradient(self.image)
        (back,) = torch.autograd.grad(
            self._image, self._latents, slopes.to(self._image), retain_graph=not last
        )
        return values, back


def unit(vectors: Tensor) -> Tensor:
    """Each problem's vector [B, ...] at length one; zero stays zero."""
    out: Tensor = vectors / length(vectors).clamp_min(1e-20)
    return out


def length(vectors: Tensor) -> Tensor:
    """[B, 1, 1, 1] of [B, c, h, w]."""
    out: Tensor = vectors.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return out
