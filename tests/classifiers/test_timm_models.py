"""timm:NAME and checkpoint:PATH?arch=NAME."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from whylens.classifiers import Classifier, load_classifier
from whylens.errors import UsageError

from .conftest import CLASSES, stir

Save = Callable[[Any, Path], None]


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_an_unknown_scheme_lists_those_there_are() -> None:
    for name in ("resnet18", "keras:resnet18", ""):
        with pytest.raises(UsageError, match=r"starts with one of bundled:\.\.\., timm:\.\.\."):
            load_classifier(name)


def test_an_unknown_model_lists_near_names() -> None:
    with pytest.raises(UsageError, match="timm has no model 'resnet19'; near names: resnet18"):
        load_classifier("timm:resnet19")
    with pytest.raises(UsageError, match=r"timm has no model 'qqqq'$"):
        load_classifier("timm:qqqq")


@pytest.mark.parametrize("name", ["vit_small_patch8_224", "resnet18.tv_in1k"])
def test_weights_that_are_not_on_the_machine_are_said_to_be_missing(
    name: str, no_cache: None
) -> None:
    with pytest.raises(UsageError, match=rf"timm:{name}: its weights are not on this machine .*"):
        load_classifier(f"timm:{name}")


def test_weights_that_never_were_are_told_from_weights_not_fetched() -> None:
    with pytest.raises(UsageError, match=r"timm:resnet18\.nosuch: no such .* a1_in1k, .*tv_in1k"):
        load_classifier("timm:resnet18.nosuch")
    without = "vit_base_patch16_18x2_224"
    assert not timm.list_pretrained(f"{without}*")
    with pytest.raises(UsageError, match=r"no such pretrained weights; .* has none"):
        load_classifier(f"timm:{without}")


def save_torch(state: Any, path: Path) -> None:
    torch.save(state, path)


def save_wrapped(state: Any, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
@pytest.mark.parametrize(
    ("suffix", "save"),
    [(".safetensors", save_file), (".pt", save_torch), (".pth.tar", save_wrapped)],
)
def test_a_checkpoint_gives_back_the_model_that_was_saved(
    architecture: str, suffix: str, save: Save, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=7).eval()
    stir(model)
    save(model.state_dict(), tmp_path / f"w{suffix}")
    (tmp_path / "names").write_text("\n".join(CLASSES))
    name = f"checkpoint:{tmp_path}/w{suffix}?arch={architecture}&classes={tmp_path}/names"
    classifier = load_classifier(name)
    assert classifier.name == name
    assert classifier.class_names == CLASSES
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(classifier.logits(images), model(images * 2 - 1), atol=1e-5)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A test_resnet of seven classes."""
    model = timm.create_model("test_resnet", num_classes=7)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    return f"{tmp_path}/w.safetensors"


def test_without_a_classes_file_classes_are_numbered(weights: str) -> None:
    classifier = load_classifier(f"checkpoint:{weights}?arch=test_resnet")
    assert classifier.class_names == tuple(f"class {i}" for i in range(7))
    assert classifier.class_index("class 4") == 4


def test_a_checkpoint_of_imagenet_gets_its_names(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    classifier = load_classifier(f"checkpoint:{tmp_path}/w.safetensors?arch=test_vit")
    assert classifier.class_index("goldfish") == 1


def test_the_classes_file_must_fit(weights: str, tmp_path: Path) -> None:
    start = f"checkpoint:{weights}?arch=test_resnet&classes={tmp_path}"
    (tmp_path / "two").write_text("a\nb\n")
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n" * 7)
    with pytest.raises(UsageError, match="2 class names for a head of 7 classes"):
        load_classifier(f"{start}/two")
    with pytest.raises(UsageError, match=r"class names .*/empty are empty"):
        load_classifier(f"{start}/empty")
    with pytest.raises(UsageError, match=r"class names .*/nowhere can't be read"):
        load_classifier(f"{start}/nowhere")
    with pytest.raises(UsageError, match=r"class names .*/latin can't be read"):
        load_classifier(f"{start}/latin")


def test_a_checkpoint_needs_a_known_architecture(weights: str) -> None:
    with pytest.raises(UsageError, match="say which timm architecture"):
        load_classifier(f"checkpoint:{weights}")
    with pytest.raises(UsageError, match=r"timm has no model 'test_resent'; near .*test_resnet"):
        load_classifier(f"checkpoint:{weights}?arch=test_resent")


def test_a_misspelt_option_is_refused(weights: str) -> None:
    with pytest.raises(UsageError, match="unknown option 'clases'; arch, classes and size go with"):
        load_classifier(f"checkpoint:{weights}?arch=test_resnet&clases=x")
    with pytest.raises(UsageError, match="unknown option 'arch'"):
        load_classifier("timm:test_resnet?arch=x")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"no file {tmp_path}/w.pt"):
        load_classifier(f"checkpoint:{tmp_path}/w.pt?arch=test_resnet")


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("test_vit", r"no tensor head\.weight, the head of test_vit"),
        ("resnet18", r"is not a resnet18: \d+ tensors missing \['.*, [1-9]\d* of another shape"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    weights: str, architecture: str, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        load_classifier(f"checkpoint:{weights}?arch={architecture}")


def test_a_checkpoint_with_one_tensor_missing_or_unknown_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    less = {k: v for k, v in state.items() if k != "conv1.0.weight"}
    assert len(less) == len(state) - 1
    save_file(less, tmp_path / "less.safetensors")
    save_file({**state, "ema.decay": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(UsageError, match=r"1 tensors missing \['conv1\.0\.weight'\], 0 unknown"):
        load_classifier(f"checkpoint:{tmp_path}/less.safetensors?arch=test_resnet")
    with pytest.raises(UsageError, match=r"0 tensors missing \[\], 1 unknown \['ema\.decay'\]"):
        load_classifier(f"checkpoint:{tmp_path}/more.safetensors?arch=test_resnet")


class Surprise:
    """Runs code when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (open, (self.marker, "w"))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"fc.weight": Surprise(str(marker))}, tmp_path / "torch.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Surprise(str(marker)), protocol=2))
    for file in ("torch.pt", "plain.pt"):
        with pytest.raises(UsageError, match="as a weights-only torch file"):
            load_classifier(f"checkpoint:{tmp_path}/{file}?arch=test_resnet")
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], 5, {"fc.weight": 3}, {1: torch.zeros(1)}, None]
)
def test_a_torch_file_without_tensors_by_name_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="does not hold a state dict"):
        load_classifier(f"checkpoint:{tmp_path}/w.pt?arch=test_resnet")


def test_a_file_that_is_no_weights_at_all_is_refused(tmp_path: Path) -> None:
    for file in ("w.pt", "w.safetensors"):
        (tmp_path / file).write_bytes(b"not weights at all")
        with pytest.raises(UsageError, match=f"{file} can't be read as safetensors"):
            load_classifier(f"checkpoint:{tmp_path}/{file}?arch=test_resnet")


def test_a_head_that_is_not_linear_is_refused(tmp_path: Path) -> None:
    # Of a distilled ViT, two layers vote.
    architecture = "deit_tiny_distilled_patch16_224"
    state = timm.create_model(architecture, num_classes=3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="the last layer is tuple, not linear"):
        load_classifier(f"checkpoint:{tmp_path}/w.safetensors?arch={architecture}")


def test_a_head_without_a_bias_has_a_bias_of_zero(load: Callable[[str], Classifier]) -> None:
    from whylens.classifiers.timm_models import wrap

    model = timm.create_model("test_resnet", num_classes=3)
    model.fc = torch.nn.Linear(model.num_features, 3, bias=False)
    classifier = wrap("x", model.eval(), ("a", "b", "c"))
    assert torch.equal(classifier.head.bias, torch.zeros(3))
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(classifier.logits(images), model(images * 2 - 1), atol=1e-5)


@pytest.mark.parametrize("options", ["kernels=on", "kernels=on&channels_last=on"])
def test_layers_that_keep_little_change_no_result(weights: str, options: str) -> None:
    name = f"checkpoint:{weights}?arch=test_resnet"
    plain, frozen = load_classifier(name), load_classifier(f"{name}&{options}")
    assert frozen.fingerprint == plain.fingerprint
    assert not any(type(layer) is torch.nn.Conv2d for layer in frozen.modules())
    images = torch.rand(2, 3, 40, 40, requires_grad=True)
    found, true = (classifier.logits(images) for classifier in (frozen, plain))
    torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-5)
    slopes = [torch.autograd.grad(out.square().sum(), images)[0] for out in (found, true)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4 * float(slopes[1].abs().max()))
