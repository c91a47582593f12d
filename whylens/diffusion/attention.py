"""Cross-attention of a sampler's U-Net: recorded, and put in place of its own.

What each place of an image looks for in each word (Hertz et al. 2022, "Prompt-to-prompt image
editing with cross-attention control"). All goes through diffusers' attention processors and the
U-Net's `cross_attention_kwargs`: nothing is kept in the U-Net between calls, so that backward can
compute a segment again and a batch can lose its finished problems.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# What a U-Net's processors take as keyword.
KEYWORD = "control"


@dataclass
class Recorder:
    """Collects cross-attention of the first `rows` images of U-Net calls.

    maps
        Of the last call, one entry a cross-attention layer: [rows, heads, places, L].
    """

    rows: int
    maps: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Injected:
    """What one U-Net call takes over for its first B images.

    maps
        The source's cross-attention, one entry a layer, [B, heads, places, L].
    tokens
        [B, L]: for each token the source's token whose map it takes.
    weights
        [B, L]: 1 where it takes it, 0 where it keeps its own.
    """

    maps: dict[int, Tensor]
    tokens: Tensor
    weights: Tensor

    def into(self, layer: int, probabilities: Tensor) -> Tensor:
        """Cross-attention [B + more, heads, places, L], with the source's in place of its own."""
        count, heads, places, _ = self.maps[layer].shape
        maps = self.maps[layer].to(probabilities)
        index = self.tokens[:, None, None, :].expand(count, heads, places, -1)
        weights = self.weights[:, None, None, :].to(probabilities)
        own = probabilities[:count]
        mixed = weights * maps.gather(3, index) + (1 - weights) * own
        return torch.cat([mixed, probabilities[count:]])


@dataclass(frozen=True)
class Injection:
    """Cross-attention of B source prompts for the first part of a chain.

    maps
        One entry a step, as `Injected.maps`; fewer than the chain's steps where later ones are
        never asked for.
    tokens, weights
        As `Injected`'s, [B, L].
    until
        [B]: the number of steps, from the noisiest, in which a problem takes them.
    """

    maps: Sequence[dict[int, Tensor]]
    tokens: Tensor
    weights: Tensor
    until: Tensor

    def at(self, step: int) -> Injected | None:
        """What the call of a step takes over; None where no problem takes anything."""
        taking = self.until > step
        if step >= len(self.maps) or not bool(taking.any()):
            return None
        return Injected(self.maps[step], self.tokens, self.weights * taking[:, None])

    def select(self, rows: Tensor) -> "Injection":
        """The injection of some problems of the batch."""
        maps = [{layer: one[rows] for layer, one in step.items()} for step in self.maps]
        return Injection(maps, self.tokens[rows], self.weights[rows], self.until[rows])

    @staticmethod
    def stack(parts: Sequence["Injection"]) -> "Injection":
        """One injection of several, in their order."""
        steps = range(min(len(part.maps) for part in parts))
        return Injection(
            [
                {layer: torch.cat([p.maps[s][layer] for p in parts]) for layer in parts[0].maps[s]}
                for s in steps
            ],
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.until for part in parts]),
        )


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
        if self.layer is None or control is None or encoder_hidden_states is None:
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
            control.maps[self.layer] = probabilities[: control.rows].detach()
        else:
            probabilities = control.into(self.layer, probabilities)
        seen = attn.batch_to_head_dim(torch.bmm(probabilities.flatten(0, 1), value))
        projected: Tensor = attn.to_out[1](attn.to_out[0](seen)) / attn.rescale_output_factor
        return projected


def install(unet: Any) -> None:
    """Give a U-Net processors that understand the keyword `control`; it works as before."""
    names = list(unet.attn_processors)
    cross = [name for name in names if ".attn2." in name]
    unet.set_attn_processor(
        {name: Processor(cross.index(name) if name in cross else None) for name in names}
    )


def align(before: Sequence[int], after: Sequence[int]) -> tuple[list[int], list[float]]:
    """(tokens, weights) of `Injected` for token ids of two prompts, each padded to the length L.

    Tokens that both prompts have, in order, take the source's maps; those that are new keep their
    own. Where a word of two tokens replaces one of three, all behind it move.
    """
    tokens, weights = list(range(len(after))), [0.0] * len(after)
    matcher = difflib.SequenceMatcher(None, list(before), list(after), autojunk=False)
    for start, other, size in matcher.get_matching_blocks():
        for offset in range(size):
            tokens[other + offset] = start + offset
            weights[other + offset] = 1.0
    return tokens, weights


def word_map(
    recorded: Sequence[dict[int, Tensor]], words: Sequence[Sequence[int]], side: int = 16
) -> Tensor:
    """Where the images look for their words, [B, s, s]; s is the layers' size nearest to `side`.

    The mean over steps, heads, layers of that resolution and the tokens of each image's word,
    `words` [B] lists of places in the prompt; each map scaled to [0, 1].
    """
    sides = {layer: math.isqrt(maps.shape[2]) for layer, maps in recorded[0].items()}
    nearest = min(set(sides.values()), key=lambda s: (abs(math.log(s / side)), s))
    layers = [layer for layer, one in sides.items() if one == nearest]
    mean = torch.stack([step[layer].float().mean(1) for step in recorded for layer in layers])
    seen = mean.mean(0)  # [B, places, L]
    rows = torch.stack([seen[row][:, list(word)].mean(1) for row, word in enumerate(words)])
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    scaled = (rows - low) / (high - low).clamp_min(1e-12)
    return scaled.view(len(scaled), nearest, nearest)
