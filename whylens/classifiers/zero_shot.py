"""CLIP models as zero-shot classifiers: the head is made of text embeddings."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whylens.classifiers.classifier import Classifier, Head, normalise, resize
from whylens.classifiers.description import Description
from whylens.classifiers.state_dicts import read_names
from whylens.classifiers.structure import VisionTransformer, clip_last_map, clip_transformer
from whylens.classifiers.text_heads import kept_text_head, text_head
from whylens.classifiers.timm_models import imagenet_names
from whylens.errors import UsageError
from whylens.images.eval_transform import EvalTransform, require_square
from whylens.images.matching import near_hint


class ZeroShotClassifier(Classifier):
    """phi = normalised image embedding; w_k = exp(logit scale) * mean text embedding.

    b is 0, but for models that were trained with sigmoids (SigLIP): they learned one bias for all.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        class_names: Sequence[str],
        weight: Tensor,
        eval_transform: EvalTransform,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        tokenizer: Any = None,
    ) -> None:
        super().__init__(name, class_names, eval_transform.size, eval_transform)
        self.model, self.tokenizer = model, tokenizer
        self._mean, self._std = tuple(mean), tuple(std)
        self.register_buffer("weight", weight)
        learned = getattr(model, "logit_bias", None)
        bias = torch.zeros_like(weight[:, 0]) + (0 if learned is None else learned.detach())
        self.register_buffer("bias", bias, persistent=False)  # it is in the model's own tensors

    @property
    def head(self) -> Head:
        return Head(cast(Tensor, self.weight), cast(Tensor, self.bias))

    def preprocess(self, images: Tensor) -> Tensor:
        resized = resize(images, self.image_size, self.eval_transform.interpolation)
        return normalise(resized, self._mean, self._std)

    def features(self, images: Tensor) -> Tensor:
        embedding = cast(Any, self.model).encode_image(self.preprocess(images))
        return F.normalize(embedding, dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> normalised embeddings [N, D], to be compared with features by inner product."""
        tokens = self.tokenizer(list(texts)).to(self.device)
        return F.normalize(cast(Any, self.model).encode_text(tokens), dim=-1)

    @property
    def temperature(self) -> Tensor:
        """exp(logit scale), by which inner products become logits."""
        scale: Tensor = cast(Any, self.model).logit_scale.detach().exp()
        return scale

    def last_map(self) -> nn.Module | None:
        return clip_last_map(cast(Any, self.model).visual)

    def transformer(self) -> VisionTransformer | None:
        return clip_transformer(cast(Any, self.model).visual)


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompts that CLIP was published with for ImageNet, each with a {class} in it."""
    made = importlib.import_module("open_clip").OPENAI_IMAGENET_TEMPLATES
    return tuple(template("{class}") for template in made)


def imagenet_words() -> tuple[str, ...]:
    """What those prompts call the 1,000 classes: curated names, not WordNet's first synonyms."""
    return tuple(importlib.import_module("open_clip").IMAGENET_CLASSNAMES)


def first_synonyms(class_names: Sequence[str]) -> tuple[str, ...]:
    """What prompts call classes of which nothing but the names is known."""
    return tuple(names.split(",")[0].strip() for names in class_names)


def load_open_clip(
    name: str, path: str, options: Mapping[str, str], device: str | torch.device = "cpu"
) -> ZeroShotClassifier:
    """open_clip:<model>/<pretrained>[?classes=<file>]; ImageNet's classes by default."""
    open_clip = importlib.import_module("open_clip")
    architecture, pretrained = _which(name, path)
    try:
        model = open_clip.create_model(architecture, pretrained=pretrained)
    except Exception as error:
        wrong = (
            f"{pretrained} does not hold the weights of a {architecture}"
            if Path(pretrained).is_file()
            else f"the weights {pretrained!r} are not on this machine and could not be fetched"
        )
        raise UsageError(f"{name}: {wrong} ({type(error).__name__})") from error
    try:
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        raise UsageError(
            f"{name}: the tokenizer of {architecture} is not on this machine and could not be "
            f"fetched ({type(error).__name__})"
        ) from error
    names = _class_names(name, options)
    words = first_synonyms(names) if "classes" in options else imagenet_words()
    templates = imagenet_templates()
    weight = kept_text_head(model.eval().to(device), tokenizer, words, templates)
    return wrap_clip(name, model, tokenizer, names, templates, weight=weight)


def describe_open_clip(name: str, path: str, options: Mapping[str, str]) -> Description:
    """By open_clip's configurations of the model and of its weights."""
    open_clip = importlib.import_module("open_clip")
    architecture, pretrained = _which(name, path)
    published = open_clip.get_pretrained_cfg(architecture, pretrained) or {}
    if not published and not Path(pretrained).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise UsageError(f"{name}: no such weights, and no such file; there are: {tags}")
    config = prepared(open_clip.get_model_config(architecture), published)
    return Description(name, _class_names(name, options), eval_transform(config, name))


def prepared(model: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """How images come to an open_clip model, by the configurations of the model and its weights."""
    transform = importlib.import_module("open_clip.transform")
    config = asdict(transform.PreprocessCfg()) | {"size": model["vision_cfg"]["image_size"]}
    said = {key: value for key, value in weights.items() if value is not None}
    return {key: said.get(key, value) if key != "size" else value for key, value in config.items()}


def _which(name: str, path: str) -> tuple[str, str]:
    """The architecture, and the tag or file of its weights."""
    open_clip = importlib.import_module("open_clip")
    architecture, _, pretrained = path.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        hint = near_hint(architecture, known)
        raise UsageError(f"open_clip has no model {architecture!r}{hint}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not pretrained:
        there = ", ".join(tags) or "a file"
        raise UsageError(f"{name}: say which weights: open_clip:{architecture}/<one of: {there}>")
    return architecture, pretrained


def _class_names(name: str, options: Mapping[str, str]) -> tuple[str, ...]:
    return read_names(options["classes"], name) if "classes" in options else imagenet_names()


def wrap_clip(
    name: str,
    model: nn.Module,
    tokenizer: Any,
    class_names: Sequence[str],
    templates: Sequence[str],
    weight: Tensor | None = None,
) -> ZeroShotClassifier:
    """A classifier of an open_clip model.

    `weight` is its head [K, D]; where none is given, it is made of the templates and of each
    class's first synonym.
    """
    model = model.eval()
    if weight is None:
        weight = text_head(model, tokenizer, first_synonyms(class_names), templates)
    config = cast(Any, model).visual.preprocess_cfg
    return ZeroShotClassifier(
        name,
        model,
        class_names,
        weight,
        eval_transform(config, name),
        tokenizer=tokenizer,
        mean=config["mean"],
        std=config["std"],
    )


def eval_transform(config: Mapping[str, Any], name: str) -> EvalTransform:
    """What open_clip's `image_transform` makes of a model's preprocessing, up to normalisation.

    Raises
    ------
    UsageError
        If the model looks at anything but squares.
    """
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    require_square(height, width, name)
    grey = int(config["fill_color"])
    bilinear = config["interpolation"] == "bilinear"  # "random" is for training
    return EvalTransform(
        size=height,
        scale=height,
        fit=config["resize_mode"],
        interpolation="bilinear" if bilinear else "bicubic",
        fill=(grey, grey, grey) if config["resize_mode"] == "longest" else (0, 0, 0),
    )
