"""transformers:FOLDER: the logits of the model behind its own image processor."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from whylens.classifiers import load_classifier
from whylens.classifiers.activation import SIGMOID
from whylens.errors import UsageError
from whylens.images.tensors import to_tensor

from .conftest import odd_images

VIT = transformers.ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    image_size=32, patch_size=8, num_labels=5, initializer_range=0.5,
)  # fmt: skip
RESNET = transformers.ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
)
CONVNEXT = transformers.ConvNextConfig(
    hidden_sizes=[8, 12, 16, 16], depths=[1, 1, 1, 1], num_labels=3, initializer_range=0.5
)
PROCESSORS: dict[str, Any] = {
    "squash": transformers.ViTImageProcessor(size={"height": 32, "width": 32}),
    "crop": transformers.CLIPImageProcessor(
        size={"shortest_edge": 41}, crop_size={"height": 32, "width": 32}
    ),
    "crop_pct": transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8),
}


def save(folder: Path, config: Any, processor: Any) -> Any:
    torch.manual_seed(2)
    model = transformers.AutoModelForImageClassification.from_config(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("config", "processor"), [(VIT, "squash"), (RESNET, "crop"), (CONVNEXT, "crop_pct")]
)
def test_logits_are_those_behind_the_models_own_image_processor(
    config: Any, processor: str, tmp_path: Path
) -> None:
    made = PROCESSORS[processor]
    model = save(tmp_path, config, made)
    classifier = load_classifier(f"transformers:{tmp_path}")
    images = odd_images(20)
    # Pillow does the resize here; torchvision's, the default, differs by a level here and there.
    pillow = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    with torch.no_grad():
        wanted = model(**pillow([Image.fromarray(i) for i in images], return_tensors="pt")).logits
        seen = torch.stack([to_tensor(classifier.eval_transform(image)) for image in images])
        logits = classifier.logits(seen)
    assert (logits - wanted).abs().max() < 1e-3
    assert wanted.std(0).mean() > 0.003  # images are told apart
    assert len(classifier.class_names) == config.num_labels


def test_a_multi_label_model_has_probabilities_by_sigmoid(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        **{**VIT.to_dict(), "problem_type": "multi_label_classification"}
    )
    config.id2label = {k: f"thing {k}" for k in range(5)}
    save(tmp_path, config, PROCESSORS["squash"])
    classifier = load_classifier(f"transformers:{tmp_path}")
    assert classifier.activation is SIGMOID
    assert classifier.class_index("thing 3") == 3


def test_a_folder_that_is_no_image_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not hold an image classifier and its image proc"):
        load_classifier(f"transformers:{tmp_path}")
    with pytest.raises(UsageError, match="neither a folder nor on this machine"):
        load_classifier("transformers:nobody/nothing")


def test_an_image_processor_that_does_more_than_it_says_is_refused(tmp_path: Path) -> None:
    odd = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, rescale_factor=1 / 127)
    save(tmp_path, VIT, odd)
    with pytest.raises(UsageError, match=r"ViTImageProcessor.*does not do what its settings say"):
        load_classifier(f"transformers:{tmp_path}")
