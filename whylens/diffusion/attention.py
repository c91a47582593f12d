"""Cross-attention of a sampler's U-Net: recorded, and put in place of its own.

What each place of an image looks for in each word (Hertz et al. 2022, "Prompt-to-prompt image
editing with cross-attention control"). All goes through diffusers' attention processors and the
U-Net's `cross_attention_kwargs`: nothing is kept in the U-Net between calls, so that backward can
compute a segment again and a batch can lose its finished problems.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from whylens.batch import Batch
from whylens.errors import UsageError

# What a U-Net's processors take as keyword.
KEYWORD = "control"
# Side of the maps by which words are looked for ("DiG-IN", section 5).
WORD_SIDE = 16


@dataclass
class Recorder:
    """Collects cross-attention of the first `rows` images of one U-Net call.

    maps
        One entry a cross-attention layer, [rows, heads, places, L].
    wanted
        Which layers are kept.
    """

    rows: int
    maps: dict[int, Tensor] = field(default_factory=dict)
    wanted: Callable[[int], bool] = lambda layer: True


class AttentionMaps:
    """Cross-attention of B images' prompts along a chain, kept where it is used, once.

    All layers of the first `injected_steps` steps, which another prompt may take over; of the first
    `word_steps` steps those layers in which words are looked for.
    """

    def __init__(self, *, injected_steps: int, word_steps: int) -> None:
        self.injected_steps, self.word_steps = injected_steps, word_steps
        self.steps: list[dict[int, Tensor]] = []

    def recorder(self, step: int, rows: int) -> Recorder | None:
        """What records a step of the chain, of its first `rows` images; None where nothing does.

        Steps come in their order.
        """
        if step >= max(self.injected_steps, self.word_steps):
            return None
        if step == 0:
            recorder = Recorder(rows)
        else:
            kept = set(self._word_layers())
            if self.injected_steps == 0:
                self.steps[0] = {layer: self.steps[0][layer] for layer in kept}
            recorder = Recorder(
                rows, wanted=lambda layer: step < self.injected_steps or layer in kept
            )
        self.steps.append(recorder.maps)
        return recorder

    def word_maps(self, words: Sequence[Sequence[int]]) -> Tensor:
        """Where the images look for their words, [B, s, s]; s is the size nearest to `WORD_SIDE`.

        The mean over steps, heads, layers of that resolution and the tokens of each image's word,
        `words` [B] lists of places in the prompt; each map scaled to [0, 1].
        """
        layers = self._word_layers()
        looked = self.steps[: self.word_steps]
        mean = torch.stack([step[layer].float().mean(1) for step in looked for layer in layers])
        seen = mean.mean(0)  # [B, places, L]
        rows = torch.stack([seen[row][:, list(word)].mean(1) for row, word in enumerate(words)])
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        scaled = (rows - low) / (high - low).clamp_min(1e-12)
        side = math.isqrt(scaled.shape[1])
        return scaled.view(len(scaled), side, side)

    def _word_layers(self) -> list[int]:
        sides = {layer: math.isqrt(maps.shape[2]) for layer, maps in self.steps[0].items()}
        nearest = min(set(sides.values()), key=lambda s: (abs(math.log(s / WORD_SIDE)), s))
        return [layer for layer, side in sides.items() if side == nearest]


@dataclass(frozen=True)
class Injected:
    """What one U-Net call takes over for its first B images.

    maps
        The sources' cross-attention, one entry a layer, [N, heads, places, L].
    rows
        [B]: the source of each image.
    tokens
        [B, L]: for each token the source's token whose map it takes.
    weights
        [B, L]: 1 where it takes it, 0 where it keeps its own.
    """

    maps: dict[int, Tensor]
    rows: Tensor
    tokens: Tensor
    weights: Tensor

    def into(self, layer: int, probabilities: Tensor) -> Tensor:
        """Cross-attention [B + more, heads, places, L], with the source's in place of its own."""
        maps = self.maps[layer][self.rows].to(probabilities)
        count, heads, places, _ = maps.shape
        index = self.tokens[:, None, None, :].expand(count, heads, places, -1)
        weights = self.weights[:, None, None, :].to(probabilities)
        own = probabilities[:count]
        mixed = weights * maps.gather(3, index) + (1 - weights) * own
        return torch.cat([mixed, probabilities[count:]])


@dataclass(frozen=True)
class Injection(Batch):
    """Cross-attention that B problems take over for the first part of a chain.

    source
        What is taken, of N images, for as many steps as are asked for at most.
    rows, tokens, weights
        As `Injected`'s.
    until
        [B]: the number of steps, from the noisiest, in which a problem takes them.
    """

    source: AttentionMaps
    rows: Tensor
    tokens: Tensor
    weights: Tensor
    until: Tensor

    def at(self, step: int) -> Injected | None:
        """What the call of a step takes over; None where no problem takes anything."""
        taking = self.until > step
        if step >= self.source.injected_steps or not bool(taking.any()):
            return None
        weights = self.weights * taking[:, None]
        return Injected(self.source.steps[step], self.rows, self.tokens, weights)


class Processor:
    """An attention processor: diffusers' own, but for cross-attention that is asked about.

    `layer` numbers the cross-attention layers; None for self-attention.
    """

    def __init__(self, layer: int | None) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.layer = layer
        self._plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        control: Recorder | Injected | None = None,
    ) -> Tensor:
        """As diffusers' processors; a Recorder is filled, what is Injected is taken over."""
        if (
            control is None
            or self.layer is None
            or encoder_hidden_states is None
            or (isinstance(control, Recorder) and not control.wanted(self.layer))
        ):
            out: Tensor = self._plain(
                attn, hidden_states, encoder_hidden_states, attention_mask, temb
            )
            return out
        query, key, value = (
            attn.head_to_batch_dim(layer(states))
            for layer, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        scores = attn.get_attention_scores(query, key, None)
        probabilities = scores.unflatten(0, (-1, attn.heads))
        if isinstance(control, Recorder):
            # A copy: a view would keep the maps of the null text, too.
            control.maps[self.layer] = probabilities[: control.rows].detach().clone()
        else:
            probabilities = control.into(self.layer, probabilities)
        seen = attn.batch_to_head_dim(torch.bmm(probabilities.flatten(0, 1), value))
        projected: Tensor = attn.to_out[1](attn.to_out[0](seen)) / attn.rescale_output_factor
        return projected


def no_words(sampler: str) -> UsageError:
    """What to say where words are looked for in a sampler that has no cross-attention."""
    return UsageError(
        f"the sampler {sampler!r} is a flow, whose transformer attends to image and text at once: "
        "no cross-attention tells where it looks for a word. Take guidance.editing.mask = none or "
        "given, and guidance.editing.thresholds = []"
    )


def install(unet: Any) -> None:
    """Give a U-Net processors that understand the keyword `control`; it works as before."""
    names = list(unet.attn_processors)
    cross = [name for name in names if ".attn2." in name]
    unet.set_attn_processor(
        {name: Processor(cross.index(name) if name in cross else None) for name in names}
    )


def align(
    before: Sequence[int], after: Sequence[int], swapped: Literal["own", "source"] = "own"
) -> tuple[list[int], list[float]]:
    """(tokens, weights) of `Injected` for token ids of two prompts, each padded to the length L.

    Tokens that both prompts have, in order, take the source's maps; those that are new keep their
    own, or take those of the tokens that they replace (`swapped`), the last one's where they are
    more. Where a word of two tokens replaces one of three, all behind it move.
    """
    tokens, weights = list(range(len(after))), [0.0] * len(after)
    matcher = difflib.SequenceMatcher(None, list(before), list(after), autojunk=False)
    for tag, start, stop, other, end in matcher.get_opcodes():
        if tag == "equal" or (tag == "replace" and swapped == "source"):
            for offset in range(end - other):
                tokens[other + offset] = min(start + offset, stop - 1)
                weights[other + offset] = 1.0
    return tokens, weights
