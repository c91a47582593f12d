"""Masks refined by a segmentation model: SAM and SAM-HQ, through transformers.

The mask of cross-attention says where the object is, coarsely; the model draws its outline.
(DiG-IN, section 5: "optionally refined by SAM".)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from whylens.errors import UsageError

KINDS = {"sam": "SamModel", "sam_hq": "SamHQModel"}
# A refined mask that overlaps the coarse one less than this is of something else.
SAME_OBJECT = 0.3


def kind_of(name: str) -> str:
    """The class of transformers that a segmenter is, by its configuration.

    Raises
    ------
    UsageError
        If there is no such model, or it is of another kind.
    """
    import transformers

    with _explained(name):
        kind = transformers.AutoConfig.from_pretrained(name).model_type
        if kind not in KINDS:
            raise ValueError(f"it is of the type {kind}")
    return KINDS[kind]


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"the segmenter {name!r} can't be loaded: name a SAM or SAM-HQ model of the Hub, or a "
            f"folder that holds one ({str(error).strip().splitlines()[0]})"
        ) from error


class Segmenter:
    """A SAM or SAM-HQ model, by Hub name or folder, frozen.

    Raises
    ------
    UsageError
        If there is no such model, or it is of another kind.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        """Load the model onto the device."""
        import transformers

        kind = kind_of(name)
        with _explained(name):
            self._prepare: Any = transformers.SamImageProcessor.from_pretrained(name)
            self._model: Any = getattr(transformers, kind).from_pretrained(name)
        self._model = self._model.to(device).eval()
        self.name = name

    @torch.no_grad()
    def refine(self, images: Tensor, masks: Tensor) -> Tensor:
        """Masks [B, 1, S, S] in {0, 1} of what the coarse masks [B, 1, S, S] in [0, 1] show.

        Asked with the box around a coarse mask and its strongest point, the model gives three
        masks; the one that overlaps the coarse one most is taken. A coarse mask stays where none
        overlaps it by `SAME_OBJECT`, or it is empty.
        """
        return torch.stack(
            [self._one(image, mask) for image, mask in zip(images, masks, strict=True)]
        )

    def _one(self, image: Tensor, mask: Tensor) -> Tensor:
        inside = mask[0] > 0.5
        if not inside.any():
            return mask
        rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
        box = [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
        # The point of the mask that lies deepest in it: in the mean of its neighbourhood.
        depth = torch.nn.functional.avg_pool2d(
            mask[None] * inside, 9, stride=1, padding=4, count_include_pad=False
        )[0, 0]
        row, column = divmod(int(depth.argmax()), mask.shape[-1])
        picture = (image.permute(1, 2, 0).cpu().numpy() * 255).round().astype("uint8")
        ready = self._prepare(images=picture, return_tensors="pt")
        height, width = (int(v) for v in ready["reshaped_input_sizes"][0])
        scale = width / mask.shape[-1]
        device = self._model.device
        found = self._model(
            pixel_values=ready["pixel_values"].to(device, self._model.dtype),
            input_boxes=torch.tensor([[[v * scale for v in box]]], device=device),
            input_points=torch.tensor(
                [[[[(column + 0.5) * scale, (row + 0.5) * scale]]]], device=device
            ),
            input_labels=torch.ones(1, 1, 1, dtype=torch.long, device=device),
            multimask_output=True,
        ).pred_masks[0, 0]
        padded = torch.nn.functional.interpolate(
            found[None].float(), size=ready["pixel_values"].shape[-2:], mode="bilinear"
        )[..., :height, :width]
        outlines = torch.nn.functional.interpolate(padded, size=mask.shape[-2:], mode="bilinear")
        candidates = (outlines[0] > 0).to(mask)
        overlap = (candidates * inside).sum((1, 2)) / (
            torch.maximum(candidates, inside.to(mask)).sum((1, 2)).clamp_min(1)
        )
        best = int(overlap.argmax())
        return candidates[best : best + 1] if overlap[best] >= SAME_OBJECT else mask
