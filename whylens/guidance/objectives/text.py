"""What a text says, as a CLIP model sees it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from whylens.classifiers.zero_shot import ZeroShotClassifier
from whylens.errors import UsageError
from whylens.guidance.objectives.base import ClassifierObjective, Objective

TextForm = Literal["inner_product", "spherical", "contrast"]


class TextMatch(ClassifierObjective):
    """Images that a CLIP model sees as their texts say.

    With i and t the normalised embeddings of image and text: -<i, t>; the spherical distance
    2 arcsin^2(|i - t| / 2), which pulls more evenly from far away; or "contrast", the cross-entropy
    of a problem's text among it and its `negatives`, at the model's own temperature.

    Parameters
    ----------
    model
        An open_clip classifier (open_clip:..., planted:clip): its two towers.
    texts
        B texts.
    negatives
        For "contrast": the texts that an image should not look like, the same for all problems.

    Raises
    ------
    UsageError
        If the classifier has no text tower, or negatives and form don't go together.
    """

    def __init__(
        self,
        model: ZeroShotClassifier,
        texts: Sequence[str],
        form: TextForm = "inner_product",
        negatives: Sequence[str] = (),
    ) -> None:
        if not isinstance(model, ZeroShotClassifier):
            raise UsageError(
                f"{model.name} has no text tower: an objective of a text needs an open_clip:... "
                "classifier or planted:clip"
            )
        if (form == "contrast") != bool(negatives):
            raise UsageError(
                f"the form {form!r} goes {'with' if form == 'contrast' else 'without'} negatives: "
                "texts that an image should not look like"
            )
        self.classifier = self.model = model
        self.form, self.view_size = form, model.image_size
        self.texts = model.embed_texts(texts)  # [B, D]
        self.negatives = model.embed_texts(negatives) if negatives else None  # [N, D]

    @property
    def name(self) -> str:
        return f"{self.form} of text by {self.model.name}"

    @property
    def description(self) -> str:
        return f"the image shows what its text says, as {self.model.name} sees it"

    def loss(self, images: Tensor) -> Tensor:
        seen = self.model.features(images)
        texts = self.texts.to(seen)
        if self.form == "inner_product":
            return -(seen * texts).sum(1)
        if self.form == "spherical":
            # Rounding may take the chord of opposite embeddings past the diameter.
            half = ((seen - texts).norm(dim=1) / 2).clamp_max(1 - 1e-7)
            distance: Tensor = 2 * half.arcsin().square()
            return distance
        assert self.negatives is not None
        own = (seen * texts).sum(1, keepdim=True)
        logits = self.model.temperature * torch.cat([own, seen @ self.negatives.to(seen).T], 1)
        return F.cross_entropy(logits, logits.new_zeros(len(logits)).long(), reduction="none")

    def select(self, rows: Tensor) -> Objective:
        return self._of_rows(rows, "texts")
