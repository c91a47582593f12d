"""What steers a chain beside its start: prompts, and what a real image adds to them."""

from dataclasses import dataclass, replace

from torch import Tensor

from whylens.batch import Batch
from whylens.diffusion.attention import Injection
from whylens.diffusion.sampler import Sampler


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of prompts, and of what guidance leads away from.

    text, null [B, L, C]; pooled, null_pooled [B, P] where the U-Net takes them (SDXL).
    """

    text: Tensor
    null: Tensor
    pooled: Tensor | None = None
    null_pooled: Tensor | None = None


@dataclass(frozen=True)
class Blend(Batch):
    """Latents of an image's own trajectory, put in place of the chain's outside of a mask.

    trajectory [B, T + 1, c, h, w] are the latents before each step and after the last, mask
    [B, 1, h, w] is 1 where the chain's own stay. A problem is blended after its steps start [B] to
    end [B] - 1; after step -1 is before the first.
    """

    trajectory: Tensor
    mask: Tensor
    start: Tensor
    end: Tensor

    def after(self, step: int, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] after a step, blended where it is the problem's time."""
        now = (self.start <= step) & (step < self.end)
        outside = (1 - self.mask) * now.view(-1, 1, 1, 1)
        return latents + outside * (self.trajectory[:, step + 1] - latents)


@dataclass(frozen=True)
class Conditioning(Batch):
    """What steers the chains of B problems beside their start.

    text, null
        Embeddings of the prompts and of the empty prompt, [B, L, C].
    text_delta, null_delta
        What is added at each time step, [B, T, L, C].
    offsets
        What is added to the latents after each step, [B, T, c, h, w]: the corrections of an
        inverted image (see `invert`).
    pooled, null_pooled
        Pooled embeddings of both, [B, P], where the U-Net takes them (SDXL).
    injection
        Another prompt's cross-attention, taken over for the first part of the chain.
    blend
        Another trajectory's latents, taken over outside of a mask.
    """

    text: Tensor
    null: Tensor
    text_delta: Tensor | None = None
    null_delta: Tensor | None = None
    offsets: Tensor | None = None
    pooled: Tensor | None = None
    null_pooled: Tensor | None = None
    injection: Injection | None = None
    blend: Blend | None = None

    def at_each_step(self, steps: int) -> list[Embeddings]:
        """The embeddings that each step of the chain gets."""
        # Taken apart once: backward of an index writes all of delta's gradient, for every step.
        texts, nulls = (
            [plain] * steps if delta is None else [plain + row for row in delta.unbind(1)]
            for plain, delta in ((self.text, self.text_delta), (self.null, self.null_delta))
        )
        return [
            Embeddings(text, null, self.pooled, self.null_pooled)
            for text, null in zip(texts, nulls, strict=True)
        ]

    def corrected(self, step: int, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] after a step, led back to an image by offset and blend."""
        if self.offsets is not None:
            latents = latents + self.offsets[:, step]
        return latents if self.blend is None else self.blend.after(step, latents)

    def with_text(self, text: Tensor, pooled: Tensor | None = None) -> "Conditioning":
        """The same with another prompt; the pooled embedding stays where none is given."""
        return replace(self, text=text, pooled=self.pooled if pooled is None else pooled)


def condition(sampler: Sampler, prompts: list[str]) -> Conditioning:
    """The conditioning of prompts, nothing added."""
    text, pooled = sampler.embed_prompts(prompts)
    null, null_pooled = sampler.embed_null()
    return Conditioning(
        text,
        null.expand(len(prompts), -1, -1),
        pooled=pooled,
        null_pooled=None if null_pooled is None else null_pooled.expand(len(prompts), -1),
    )
