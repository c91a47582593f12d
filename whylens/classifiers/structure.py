"""Where networks keep what a heat map is made of: a CNN's last map, a transformer's attention."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from whylens.compiled import uncompiled


@dataclass
class Recorded:
    """What a forward pass left: attention of each block, [B, heads, T, T], the place in the graph
    where its gradient can be asked for, and the tokens after the last block, [B, T, C]."""

    attention: list[Tensor] = field(default_factory=list)
    edges: list[GradientEdge] = field(default_factory=list)
    tokens: Tensor | None = None


@dataclass(frozen=True)
class VisionTransformer:
    """A vision transformer's parts.

    `attentions` holds each block's attention module: nn.MultiheadAttention, or timm's kind, with
    the attention passing through `attn_drop` where it is not fused. `last` gives the final tokens
    [B, prefix + h * w, C]; `grid` is (h, w).
    """

    attentions: tuple[nn.Module, ...]
    last: nn.Module
    prefix: int
    grid: tuple[int, int]

    @contextmanager
    def recording(self) -> Iterator[Recorded]:
        """Record forward passes inside; gradients have to be enabled."""
        recorded = Recorded()

        def dropped(module: Any, inputs: Any, output: Tensor) -> None:
            recorded.attention.append(output.detach())
            recorded.edges.append(get_gradient_edge(output))

        def wanted(module: Any, inputs: Any, options: dict[str, Any]) -> Any:
            return inputs, {**options, "need_weights": True, "average_attn_weights": False}

        def weighed(module: Any, inputs: Any, output: Any) -> None:
            # The weights come as a view; what is multiplied with the values is what it views.
            recorded.attention.append(output[1].detach())
            recorded.edges.append(GradientEdge(*output[1].grad_fn.next_functions[0]))

        def finished(module: Any, inputs: Any, output: Tensor) -> None:
            recorded.tokens = output

        with ExitStack() as stack:
            stack.enter_context(uncompiled())
            stack.callback(self.last.register_forward_hook(finished).remove)
            for attention in self.attentions:
                if isinstance(attention, nn.MultiheadAttention):
                    before = attention.register_forward_pre_hook(wanted, with_kwargs=True)
                    stack.callback(before.remove)
                    stack.callback(attention.register_forward_hook(weighed).remove)
                else:
                    part: Any = attention
                    stack.callback(setattr, part, "fused_attn", part.fused_attn)
                    part.fused_attn = False
                    stack.callback(part.attn_drop.register_forward_hook(dropped).remove)
            yield recorded


def timm_transformer(model: Any) -> VisionTransformer | None:
    """A timm model's blocks of global attention over patches (ViT, DeiT, BEiT, EVA); else None."""
    blocks = getattr(model, "blocks", None)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or grid is None or not len(blocks):
        return None
    attentions = tuple(getattr(block, "attn", None) for block in blocks)
    if not all(hasattr(a, "attn_drop") and hasattr(a, "fused_attn") for a in attentions):
        return None
    found = [a for a in attentions if a is not None]
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    return VisionTransformer(tuple(found), blocks[-1], prefix, (int(grid[0]), int(grid[1])))


def torchvision_transformer(model: Any) -> VisionTransformer | None:
    """A torchvision ViT's blocks; None for other models."""
    blocks = getattr(getattr(model, "encoder", None), "layers", None)
    if not isinstance(blocks, nn.Sequential) or not hasattr(model, "patch_size"):
        return None
    attentions = tuple(getattr(block, "self_attention", None) for block in blocks)
    found = tuple(a for a in attentions if isinstance(a, nn.MultiheadAttention))
    if not found or len(found) < len(attentions):
        return None
    side = model.image_size // model.patch_size
    return VisionTransformer(found, blocks[-1], 1, (side, side))


def timm_last_map(model: Any) -> nn.Module | None:
    """The stage that puts out a timm CNN's last map [B, C, h, w]; None where none is known."""
    stages = getattr(model, "feature_info", None)
    if not stages or getattr(model, "output_fmt", "NCHW") != "NCHW":
        return None
    module: nn.Module = model.get_submodule(stages[-1]["module"])
    return module


def clip_transformer(visual: Any) -> VisionTransformer | None:
    """An open_clip image tower's transformer; None where the tower is a CNN."""
    if hasattr(visual, "trunk"):
        return timm_transformer(visual.trunk)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", ())
    attentions = tuple(getattr(block, "attn", None) for block in blocks)
    if not attentions or not all(isinstance(a, nn.MultiheadAttention) for a in attentions):
        return None
    found = tuple(a for a in attentions if a is not None)
    height, width = visual.grid_size
    return VisionTransformer(found, visual.transformer, 1, (int(height), int(width)))


def clip_last_map(visual: Any) -> nn.Module | None:
    """The last stage of an open_clip tower that is a CNN."""
    if hasattr(visual, "trunk"):
        return timm_last_map(visual.trunk)
    stage: nn.Module | None = getattr(visual, "layer4", None)
    return stage
