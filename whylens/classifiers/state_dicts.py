"""Weights and class names from files, without ever running what a file says."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whylens.errors import UsageError

# Where training code puts the weights among what else it keeps.
INSIDE = ("state_dict", "model", "model_state_dict")


def read_state(path: str, name: str) -> dict[str, Tensor]:
    """A state dict from safetensors or a weights-only torch file, as the model names its tensors.

    What data parallelism and wrappers put before names, "module." and "model.", is left out.

    Raises
    ------
    UsageError
        If the file isn't there, can't be read without running code, or holds no tensors by name.
    """
    file = _there(path, name)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            # Mapped where it can be: read when it is copied, and once for all workers of a machine.
            mapped = zipfile.is_zipfile(file)
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise UsageError(
            f"{name}: {file} can't be read as safetensors or as a weights-only torch file "
            f"({type(error).__name__}: {error})"
        ) from error
    tensors = _tensors(state, file, name)
    return {k.removeprefix("module.").removeprefix("model."): v for k, v in tensors.items()}


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are made inside have names and shapes, and no memory: none can be called."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter.*no-op")
        yield


def read_robustness(path: str, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's and the normaliser's tensors of a checkpoint of the `robustness` package.

    Its models are wrapped for attacks, so that names begin with (module.)(attacker.)model. and
    (module.)(attacker.)normalize(r). They are pickled with dill, beside the state of a schedule and
    the like: what isn't weights is read as an empty `_Nothing`, and never run.

    Raises
    ------
    UsageError
        If the file isn't there, can't be read that way, or has no names of that kind.
    """
    file = _there(path, name)
    try:
        tensors = _tensors(_without_code(file), file, name)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise UsageError(
            f"{name}: {file} can't be read without running code that is pickled in it "
            f"({_refused(error)}). Where you trust it, save its weights alone: "
            "torch.save(torch.load(FILE, pickle_module=dill, weights_only=False)['model'], NEW)"
        ) from error
    network, normaliser = dict[str, Tensor](), dict[str, Tensor]()
    for key, tensor in tensors.items():
        inner = key.removeprefix("module.")
        twice = inner.startswith("attacker.")  # a second name for the same network
        inner = inner.removeprefix("attacker.")
        if inner.startswith("model."):
            if not twice:
                network[inner.removeprefix("model.")] = tensor
        elif inner.startswith(("normalizer.", "normalize.")):
            normaliser[inner.partition(".")[2]] = tensor
    if not network:
        start = ", ".join(list(tensors)[:3])
        raise UsageError(
            f"{name}: {file} is not a checkpoint of the package robustness: no tensor's name "
            f"begins with model. or module.model. (there are {start}, ...); plain weights are read "
            "by torchvision:ARCH?weights=FILE and checkpoint:FILE?arch=ARCH"
        )
    return network, normaliser


class _Nothing:
    """What stands in a checkpoint for an object that whylens neither needs nor makes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _without_code(file: Path) -> Any:
    """The content of a torch file, with `_Nothing` for whatever only code could make."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # older than zip files: what is in it is found out by reading
        named = []
    stand_ins: Any = [(_Nothing, name) for name in named]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(file, map_location="cpu", weights_only=True)


def _refused(error: Exception) -> str:
    """What torch would not make of a file, without its advice to make it."""
    unsafe = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {unsafe[1]}" if unsafe else (str(error).splitlines() or [""])[0]


def fit_state(
    model: nn.Module, state: Mapping[str, Tensor], name: str, architecture: str
) -> nn.Module:
    """The model with the weights of a state dict, which has to fit to the last tensor.

    Raises
    ------
    UsageError
        If tensors are missing, unknown, or of another shape; some are named.
    """
    expected = model.state_dict()
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    if missing or unknown or wrong:
        raise UsageError(
            f"{name} is not a {architecture}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}, {len(wrong)} of another shape {wrong[:3]}"
        )
    model.load_state_dict(state)
    return model


def read_names(path: str, name: str) -> tuple[str, ...]:
    """Class names, one a line.

    Raises
    ------
    UsageError
        If the file can't be read or is empty.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: the class names {path} can't be read: {error}") from error
    if not any(lines):
        raise UsageError(f"{name}: the class names {path} are empty")
    return tuple(line for line in lines if line)


def _there(path: str, name: str) -> Path:
    if not Path(path).is_file():
        raise UsageError(f"{name}: no file {path}")
    return Path(path)


def _tensors(state: Any, file: Path, name: str) -> dict[str, Tensor]:
    for key in INSIDE:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise UsageError(f"{name}: {file} does not hold a state dict: tensors by name")
    return state
