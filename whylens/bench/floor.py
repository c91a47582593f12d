"""The floor: what the bare networks' own forward and backward take, nothing around them.

One optimisation step needs T calls of the U-Net, a decoding and a look of the classifier at all
views for each prediction, and one look at the image itself. Whatever it takes beyond them is ours.
"""

from dataclasses import dataclass

import torch

from whylens.bench.setups import Setup
from whylens.classifiers import Classifier
from whylens.diffusion.sampler import Sampler
from whylens.diffusion.schedules import schedule
from whylens.timing import best_of


@dataclass(frozen=True)
class Floor:
    """Seconds of single calls for a whole batch, the networks as they are loaded.

    unet_forward, unet
        The U-Net on both halves of guidance, forward alone, and with backward.
    decoder, classifier
        A decoding of the batch, and all its views through the classifier, with backward.
    look
        The classifier on the batch's images, forward alone.
    """

    unet_forward: float
    unet: float
    decoder: float
    classifier: float
    look: float

    def seconds(self, setup: Setup, again: float = 0.0) -> float:
        """Of an optimisation step; `again`: U-Net calls that are computed a second time."""
        chain, predictions = setup.guidance.chain, setup.guidance.views.predictions
        walked = chain.steps * self.unet + again * self.unet_forward
        return walked + predictions * (self.decoder + self.classifier) + self.look


def measure_floor(sampler: Sampler, classifier: Classifier, setup: Setup) -> Floor:
    """Time the bare calls of a setup's batch, the best of three each."""
    device, batch, guidance = sampler.device, setup.batch, setup.guidance
    rows = 2 * batch if guidance.chain.guidance_scale > 1 else batch
    time = schedule(sampler, guidance.chain.steps)[0].time
    text, pooled = sampler.embed_prompts(["a"] * rows)
    latents = torch.randn(rows, *sampler.latent_shape, device=device, dtype=sampler.dtype)
    side, views = classifier.image_size, batch * max(guidance.views.cutouts, 1)
    seen = torch.rand(views, 3, side, side, device=device, dtype=torch.float32)
    for tensor in (text, latents, seen):
        tensor.requires_grad_()

    @torch.no_grad()
    def unet_forward() -> None:
        sampler.predict(latents, time, text, pooled)

    def unet() -> None:
        out = sampler.predict(latents, time, text, pooled)
        torch.autograd.grad(out.sum(), [latents, text])

    def decoder() -> None:
        some = latents[:batch]
        torch.autograd.grad(sampler.decode(some).sum(), some)

    def classify() -> None:
        torch.autograd.grad(classifier.logits(seen).sum(), seen)

    @torch.no_grad()
    def look() -> None:
        classifier.logits(seen[:batch])

    calls = (unet_forward, unet, decoder, classify, look)
    return Floor(*(best_of(call, device) for call in calls))
