"""Inversions of real images, kept one by one: another target, or other settings, need no new ones.

The table `inversions` says how well each leads back; its arrays lie beside it as safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from whylens.jobs.columns import columns

if TYPE_CHECKING:
    import torch

    from whylens.diffusion import Inversion, Sampler
    from whylens.guidance.memory import Memory
    from whylens.guidance.settings import GuidanceSettings
    from whylens.runs import Run
    from whylens.runs.lineage import Lineage

INVERSIONS = "inversions"
SCHEMA = pa.schema(
    [
        *columns(pa.string(), "image_id", "prompt", "kind"),
        *columns(pa.int32(), "steps", "encoder_steps"),
        ("guidance_scale", pa.float32()),
        # In dB, against the image: what the chain leads back to, and the inverted latents, decoded.
        *columns(pa.float32(), "psnr", "decoder_psnr"),
    ]
)
# Of the arrays: 1 had steps before images.
LAYOUT = 2
ARRAYS = ("latents", "noise", "offsets", "null_delta", "psnr", "decoder_psnr")


class Inversions:
    """The inversions that a run keeps, of one sampler and one way to invert."""

    def __init__(
        self,
        run: Run,
        lineage: Lineage,
        sampler: Sampler,
        settings: GuidanceSettings,
        memory: Memory | None = None,
    ) -> None:
        """New ones go to the run; those of the runs that it builds on are used."""
        self.run, self.runs = run, lineage.runs
        self.sampler, self.settings, self.how = sampler, settings, settings.inverting
        self.memory = memory

    def of(
        self, image_ids: Sequence[str], images: torch.Tensor, prompts: Sequence[str]
    ) -> Inversion:
        """Inversions of images [B, 3, S, S] in [0, 1], as one batch.

        Where one is missing all are made: a batch that was interrupted comes out as it would have.
        """
        import torch

        from whylens.diffusion import Inversion
        from whylens.guidance.memory import inverted

        units = [self.unit(*pair) for pair in zip(image_ids, prompts, strict=True)]
        holders = [self._holder(unit) for unit in units]
        kept = [self._read(run, unit) for run, unit in zip(holders, units, strict=True) if run]
        if len(kept) == len(units):
            return Inversion.cat(kept)
        made = inverted(self.sampler, images, prompts, self.settings, self.memory)
        for place, (unit, holder) in enumerate(zip(units, holders, strict=True)):
            # An image that is changed to several classes is inverted alike for each.
            if holder is None and units.index(unit) == place:
                one = made.select(torch.tensor([place]))
                self._keep(unit, image_ids[place], prompts[place], one)
        return made

    def unit(self, image_id: str, prompt: str) -> str:
        """The name of an image's part: it tells how it was inverted from any other."""
        sampler = (self.sampler.name, self.sampler.image_size)
        told = json.dumps([LAYOUT, *sampler, self.how, image_id, prompt])
        return hashlib.sha256(told.encode()).hexdigest()[:24]

    def _holder(self, unit: str) -> Run | None:
        return next((run for run in self.runs if run.table(INVERSIONS).done(unit)), None)

    def _keep(self, unit: str, image_id: str, prompt: str, one: Inversion) -> None:
        from safetensors.torch import save

        arrays = {name: getattr(one, name) for name in ARRAYS}
        there = {k: v.detach().cpu().contiguous() for k, v in arrays.items() if v is not None}
        self.run.storage.write(f"{INVERSIONS}/{unit}.safetensors", save(there))
        row: dict[str, Any] = {
            "image_id": image_id,
            "prompt": prompt,
            **self.how,
            "psnr": float(one.psnr),
            "decoder_psnr": float(one.decoder_psnr),
        }
        self.run.table(INVERSIONS).write(unit, pa.Table.from_pylist([row], schema=SCHEMA))

    def _read(self, run: Run, unit: str) -> Inversion:
        from safetensors.torch import load

        from whylens.diffusion import Inversion

        there = load(run.storage.read(f"{INVERSIONS}/{unit}.safetensors"))
        found = {k: v.to(self.sampler.device) for k, v in there.items()}
        return Inversion(**{name: found.get(name) for name in ARRAYS})  # type: ignore[arg-type]
