"""Captions of images that have none, by a transformers image-to-text model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whylens.errors import UsageError

# Words enough to say what an image shows; longer texts repeat themselves.
MAX_TOKENS = 30


class Captioner:
    """An image-to-text model (BLIP, GIT, ViT-GPT2, ...), frozen, decoding greedily.

    Raises
    ------
    UsageError
        If there is no such model, or it is of another kind.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        """Load the model by Hub name or from a folder."""
        import transformers

        try:
            self._prepare: Any = transformers.AutoImageProcessor.from_pretrained(name)
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
            kind: Any = transformers.AutoModelForImageTextToText
            self._model = kind.from_pretrained(name).to(device).eval()
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"the captioner {name!r} can't be loaded: name a transformers image-to-text model "
                f"of the Hub, or a folder that holds one ({str(error).strip().splitlines()[0]})"
            ) from error
        self.name = name

    def __call__(self, images: NDArray[np.uint8]) -> list[str]:
        """Captions of images [N, S, S, 3]."""
        import torch

        if not len(images):
            return []
        pixels = self._prepare(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            tokens = self._model.generate(
                pixel_values=pixels.to(self._model.device, self._model.dtype),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
            )
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]
