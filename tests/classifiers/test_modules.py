"""Any torch module, torchvision's and robustness' checkpoints: their own libraries' logits."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from whylens.classifiers import from_module, load_classifier
from whylens.errors import UsageError
from whylens.images.tensors import to_tensor

from .conftest import odd_images


def fresh(architecture: str = "resnet18", **options: Any) -> nn.Module:
    """A torchvision model with weights of its own, its head far from zero."""
    torch.manual_seed(4)
    model: nn.Module = torchvision.models.get_model(architecture, weights=None, **options).eval()
    return model


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return fresh(num_classes=7)


def plain_logits(model: nn.Module, preset: Any, count: int = 4) -> Tensor:
    """Logits of odd-sized images through torchvision's own preset."""
    batch = torch.stack([preset(Image.fromarray(image)) for image in odd_images(count, 500)])
    with torch.no_grad():
        out: Tensor = model(batch)
    return out


def our_logits(classifier: Any, count: int = 4) -> Tensor:
    images = [to_tensor(classifier.eval_transform(image)) for image in odd_images(count, 500)]
    with torch.no_grad():
        out: Tensor = classifier.logits(torch.stack(images))
    return out


def test_a_torchvision_checkpoint_has_torchvisions_logits(
    resnet: nn.Module, tmp_path: Path
) -> None:
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    classifier = load_classifier(f"torchvision:resnet18?weights={tmp_path}/w.pth")
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert torch.allclose(our_logits(classifier), plain_logits(resnet, preset), atol=1e-4)
    assert classifier.class_names == tuple(f"class {k}" for k in range(7))
    assert classifier.feature_size == 512
    # The average of its last map: a heat map of it is exact.
    images = torch.rand(1, 3, 224, 224)
    maps = classifier.feature_map(images)
    assert maps is not None
    assert torch.allclose(maps.mean((2, 3)), classifier.features(images), atol=1e-4)
    assert classifier.last_map() is not None


def test_published_weights_bring_their_own_transform_and_names(
    resnet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fresh()
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: made)
    classifier = load_classifier("torchvision:resnet18?weights=DEFAULT")
    assert classifier.class_index("goldfish") == 1
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    assert torch.allclose(our_logits(classifier, 2), plain_logits(made, preset, 2), atol=1e-4)


def robust(model: nn.Module, prefix: str = "module.") -> dict[str, Any]:
    """What the package `robustness` saves: the model twice, normalisers, the training's state."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    levels = {"new_mean": torch.tensor([0.4, 0.5, 0.6]), "new_std": torch.tensor([0.3, 0.2, 0.25])}
    for key, level in levels.items():
        state[f"{prefix}normalizer.{key}"] = level[:, None, None]
        state[f"{prefix}attacker.normalize.{key}"] = level[:, None, None]
    for key, tensor in model.state_dict().items():
        state[f"{prefix}model.{key}"] = tensor
        state[f"{prefix}attacker.model.{key}"] = tensor
    return {"model": state, "optimizer": {"lr": 0.1}, "epoch": 3, "schedule": None}


class Schedule:
    """Part of a training's state that only its own code could make."""

    def __init__(self) -> None:
        self.steps = [1, 2]

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("code of the file was run")


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_robustness_checkpoint_has_its_models_logits(
    resnet: nn.Module, tmp_path: Path, prefix: str, legacy: bool
) -> None:
    content = robust(resnet, prefix)
    if not legacy:  # of files older than zip, what only code could make is refused
        content["schedule"] = Schedule()
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    classifier = load_classifier(f"robustness:{tmp_path}/w.pt?arch=resnet18")
    preset = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(256),
            torchvision.transforms.CenterCrop(224),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.4, 0.5, 0.6), (0.3, 0.2, 0.25)),
        ]
    )
    assert torch.allclose(our_logits(classifier), plain_logits(resnet, preset), atol=1e-4)


def test_what_is_no_robustness_checkpoint_is_refused(resnet: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(UsageError, match=r"no tensor's name begins with model\..*conv1\.weight"):
        load_classifier(f"robustness:{tmp_path}/plain.pt?arch=resnet18")
    content = {**robust(resnet), "schedule": Schedule()}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(
        UsageError, match=r"without running code that is pickled .*save its weights"
    ):
        load_classifier(f"robustness:{tmp_path}/old.pt?arch=resnet18")
    with pytest.raises(UsageError, match="say which architecture it is"):
        load_classifier(f"robustness:{tmp_path}/plain.pt")


def test_wrong_architectures_and_weights_are_named(resnet: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match="no classifier 'resnet19'; near names: resnet18"):
        load_classifier("torchvision:resnet19?weights=DEFAULT")
    with pytest.raises(UsageError, match=r"say which weights: .*IMAGENET1K_V1, DEFAULT, or a file"):
        load_classifier("torchvision:resnet18")
    with pytest.raises(UsageError, match="has no weights 'V9', and there is no such file"):
        load_classifier("torchvision:resnet18?weights=V9")
    with pytest.raises(UsageError, match=r"is not a resnet34: \d+ tensors missing"):
        load_classifier(f"torchvision:resnet34?weights={tmp_path}/w.pth")
    with pytest.raises(UsageError, match=r"no tensor classifier\.1\.weight, the head of mobilenet"):
        load_classifier(f"torchvision:mobilenet_v2?weights={tmp_path}/w.pth")
    with pytest.raises(UsageError, match=r"squeezenet1_1.*: the head is not linear"):
        load_classifier(f"torchvision:squeezenet1_1?weights={tmp_path}/w.pth")


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.conv, self.a, self.b = nn.Conv2d(6, 4, 1), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images).flatten(1)
        out: Tensor = self.a(features)
        return out + self.b(features) if self.training else out


def test_any_module_is_a_classifier_by_its_last_linear_layer() -> None:
    module = TwoHeads().eval()
    classifier = from_module(module, "a", class_names="abcd", size=32, mean=(0.5,) * 3)
    images = torch.rand(2, 3, 32, 32)
    wanted = module((images - 0.5) / torch.tensor([0.229, 0.224, 0.225])[:, None, None])
    assert torch.allclose(classifier.logits(images), wanted, atol=1e-5)
    assert torch.allclose(classifier.head(classifier.features(images)), wanted, atol=1e-5)
    assert isinstance(module.a, nn.Linear)  # the module itself stays as it is
    assert classifier.eval_transform.scale == 36


def test_layers_that_are_no_head_are_refused() -> None:
    module = TwoHeads().eval()
    with pytest.raises(UsageError, match="module has no layer 'fc'; linear layers: a, b"):
        from_module(module, "fc", size=32)
    with pytest.raises(UsageError, match="the layer conv is Conv2d, not linear"):
        from_module(module, "conv", size=32)
    with pytest.raises(UsageError, match="is not what the linear layer b puts out"):
        from_module(module, "b", size=32)
    with pytest.raises(UsageError, match="2 class names for a head of 4 classes"):
        from_module(module, "a", class_names="ab", size=32)


def test_a_torchvision_transformer_shows_its_attention() -> None:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)
    classifier = from_module(model, "heads.head", size=32)
    transformer = classifier.transformer()
    assert transformer is not None
    assert transformer.grid == (4, 4)
    from whylens.classifiers.heatmap import component_heatmap

    heat = component_heatmap(classifier, torch.rand(1, 3, 32, 32), torch.randn(16))
    assert heat.shape == (1, 32, 32)
    assert heat.max() > 0
