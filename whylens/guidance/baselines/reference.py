"""The loop that whylens replaces: one image at a time, as the papers' own code does it.

float32, batch 1, a checkpoint at every step of the chain, cutouts one by one at random places, the
loss on the last predictions, plain Adam ("DiG-IN", section 3, and its published code). It is here
to be measured against: `whylens bench` and tests/benchmarks/guided.py run it with equal settings.

With `relative_epsilon` 0 and the same views it takes the steps that whylens takes, but for
rounding. Its own cutouts differ: they end at pixels' borders, their noise is another, and where one
is smaller than the classifier's input, as in the papers none is, adaptive pooling repeats pixels
where whylens interpolates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from whylens.classifiers import Classifier
from whylens.diffusion.conditioning import condition
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import Step, schedule
from whylens.guidance.objectives.classes import check_targets
from whylens.guidance.settings import GuidanceSettings
from whylens.guidance.views import ViewGenerator, Views
from whylens.kernels import guided_ddim
from whylens.timing import now


@dataclass
class ReferenceRun:
    """What the loop came to.

    image
        The trajectory's image [1, 3, S, S] with the lowest loss, which is the result.
    losses
        Cross-entropy of each image of the trajectory, without cutouts; the start's first.
    seconds
        Of each optimisation step; the image after the last step is made outside of them.
    """

    image: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, image: Tensor, loss: float) -> None:
        """The trajectory's next image."""
        if not self.losses or loss < min(self.losses):
            self.image = image.detach()
        self.losses.append(loss)


def cutouts(image: Tensor, size: int, views: Views) -> Tensor:
    """Squares of an image [1, 3, S, S], pooled to [V, 3, size, size], with noise.

    The image itself where there are none. Places and key are on the CPU.
    """
    whole, found = image.shape[-1], []
    boxes = views.boxes[0]
    if len(boxes) == 0:
        return image
    for top, left, tall, _ in (boxes * whole).tolist():
        side = round(tall)
        row, column = (min(round(at), whole - side) for at in (top, left))
        crop = image[..., row : row + side, column : column + side]
        found.append(F.adaptive_avg_pool2d(crop, size))
    seen = torch.cat(found)
    noise = torch.Generator(seen.device).manual_seed(int(views.keys))
    drawn = torch.randn(seen.shape, generator=noise, device=seen.device, dtype=seen.dtype)
    return seen + views.noise * drawn


def reference_loop(
    sampler: Sampler,
    classifier: Classifier,
    prompt: str,
    target: int,
    seed: int,
    settings: GuidanceSettings,
    look: Callable[[Tensor, int, Views], Tensor] = cutouts,
) -> ReferenceRun:
    """Lead the image of a prompt to a class that the classifier is to say, -log p.

    It begins at the same latents as `Problems.from_prompts` with this seed. It takes
    `chain.steps`, `chain.guidance_scale`, `views`, and `optimiser`'s steps, rate and factors from
    the settings: backward computes every step again, Adam is torch's own, and there are no
    regularisers. The sampler should be float32, its networks as diffusers has them. `look` makes
    views [V, 3, size, size] of an image [1, 3, S, S].

    Raises
    ------
    UsageError
        If the classifier lacks the target, or the schedule has fewer steps.
    """
    chain, optimiser, device = settings.chain, settings.optimiser, sampler.device
    wanted = torch.tensor([target], device=device)
    check_targets(classifier, wanted)
    steps, conditioning = schedule(sampler, chain.steps), condition(sampler, [prompt])
    # The variables, and Adam's rates for them.
    latents = sampler.initial_latents([seed])
    norm = latents.norm()
    text_deltas = conditioning.text.new_zeros(chain.steps, *conditioning.text.shape)
    null_deltas = torch.zeros_like(text_deltas)
    factors = (optimiser.latents_factor, optimiser.text_factor, optimiser.null_factor)
    moved = list(zip((latents, text_deltas, null_deltas), factors, strict=True))
    rate = optimiser.learning_rate
    adam = torch.optim.Adam(
        [{"params": [variable.requires_grad_()], "lr": rate * factor} for variable, factor in moved]
    )
    # Places are drawn on the CPU, as there, and those that `solve` draws, so that results can be
    # compared; noise where the images are.
    places = ViewGenerator([seed], settings.views)

    def step(z: Tensor, at: Step, text: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
        pooled, null_pooled = conditioning.pooled, conditioning.null_pooled
        guided = chain.guidance_scale > 1
        seen = sampler.seen(z, at.alpha_bar)
        if not guided:
            with_text, without = sampler.predict(seen, at.time, text, pooled), None
        else:
            if pooled is not None and null_pooled is not None:
                pooled = torch.cat([pooled, null_pooled])
            both = sampler.predict(
                torch.cat([seen, seen]), at.time, torch.cat([text, null]), pooled
            )
            with_text, without = both.chunk(2)
        return guided_ddim.reference(
            z,
            with_text,
            without,
            guidance_scale=chain.guidance_scale,
            alpha_bar=at.alpha_bar,
            alpha_bar_prev=at.alpha_bar_after,
            prediction=sampler.prediction,
        )

    def predictions() -> list[Tensor]:
        z, found = latents, []
        for index, at in enumerate(steps):
            text = conditioning.text + text_deltas[index]
            null = conditioning.null + null_deltas[index]
            z, x0 = checkpoint(step, z, at, text, null, use_reentrant=False)
            found.append(x0)
        return found[-settings.views.predictions :]

    run = ReferenceRun()
    for _ in range(optimiser.steps):
        began = now(device)
        images = [sampler.decode(x0) for x0 in predictions()]
        with torch.no_grad():
            plain = F.cross_entropy(classifier.logits(images[-1]), wanted)
        loss = torch.zeros((), device=device)
        for place, image in enumerate(images, start=1):
            seen = look(image, classifier.image_size, places.draw([0], torch.device("cpu")))
            value = F.cross_entropy(classifier.logits(seen), wanted.expand(len(seen)))
            loss = loss + place / sum(range(len(images) + 1)) * value
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            latents.mul_(norm / latents.norm())
        run.add(images[-1], float(plain))
        run.seconds.append(now(device) - began)
    with torch.no_grad():
        image = sampler.decode(predictions()[-1])
        run.add(image, float(F.cross_entropy(classifier.logits(image), wanted)))
    return run
