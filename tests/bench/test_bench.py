"""`whylens bench`: what it counts, and that it needs none of the libraries that a GPU box lacks."""

import json
import subprocess
import sys

import pytest
import torch

from whylens.bench.floor import Floor
from whylens.bench.peak import peak_flops, unet_flops
from whylens.bench.setups import SIZES, setup_of
from whylens.bench.steps import time_steps
from whylens.classifiers import load_classifier
from whylens.diffusion import load_sampler
from whylens.errors import UsageError

ABSENT = ("ray", "pyarrow", "faiss", "streamlit", "open_clip", "captum")


@pytest.fixture(scope="module")
def tiny():
    return load_sampler("random:tiny")


def test_a_size_can_be_changed_and_is_checked():
    changed = setup_of("sd14", batch=8, sampler="random:sd14?dtype=bfloat16")
    assert (changed.batch, changed.sampler) == (8, "random:sd14?dtype=bfloat16")
    assert changed.guidance == SIZES["sd14"].guidance
    assert changed.plain.sampler == (
        "random:sd14?dtype=bfloat16&kernels=off&channels_last=off&compile=off&graphs=off"
        "&dtype=float32"
    )
    assert changed.plain.classifier == "random:resnet50?kernels=off&channels_last=off&compile=off"
    assert setup_of("planted").batch == 8
    with pytest.raises(UsageError, match="planted, sd14, sdxl"):
        setup_of("huge")


def test_the_floor_adds_the_calls_of_a_step():
    floor = Floor(unet_forward=1.0, unet=10.0, decoder=100.0, classifier=1000.0, look=0.5)
    setup = setup_of("sd14")
    assert floor.seconds(setup) == 20 * 10 + 3 * 1100 + 0.5
    assert floor.seconds(setup, again=11) == floor.seconds(setup) + 11


def test_operations_of_linear_layers_and_convolutions_are_counted(tiny):
    """By hand: what a layer multiplies, forward and backward to its input, 2 a weight and place."""
    by_hand = 0

    def add(layer, inputs, out):
        nonlocal by_hand
        places = out.numel() // (out.shape[1] if out.ndim == 4 else out.shape[-1])
        # Time embeddings get no gradient: their inputs are none of latents and text.
        wants = inputs[0].requires_grad
        by_hand += 2 * layer.weight.numel() * places * (2 if wants else 1)

    layers = [
        m for m in tiny.denoiser.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    latents = torch.randn(1, *tiny.latent_shape, requires_grad=True)
    text = torch.randn(1, 77, 64, requires_grad=True)
    tiny.predict(latents, 5.0, text)
    for hook in hooks:
        hook.remove()
    counted = unet_flops(tiny, 1)
    # The rest is attention.
    assert by_hand < counted < 1.5 * by_hand
    assert unet_flops(tiny, 4) == 4 * counted


def test_a_peak_is_above_what_a_core_does_at_least():
    assert 1e9 < peak_flops(torch.device("cpu"), torch.float32) < 1e14


def test_calls_of_the_unet_are_counted_with_those_for_backward(tiny):
    classifier = load_classifier("random:test_resnet")
    setup = setup_of("tiny")
    stored = time_steps(tiny, classifier, setup, 1)
    assert stored.calls == 4
    assert (stored.batch, stored.finite, stored.peak_gib) == (2, True, None)
    assert len(stored.seconds) == 1
    chain = setup.guidance.chain.model_copy(update={"segment": 1})
    guidance = setup.guidance.model_copy(update={"chain": chain})
    again = time_steps(tiny, classifier, type(setup)(**{**vars(setup), "guidance": guidance}), 1)
    assert again.calls == 7


@pytest.mark.slow
def test_it_runs_where_the_rest_of_whylens_could_not(tmp_path):
    blocked = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from whylens.jobs.cli.commands import main
main(["bench", "--size", "tiny", "--device", "cpu", "--steps", "1", "--operation-seconds", "0.01"])
"""
    done = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["step"]["finite"]
    operations = {row["operation"] for row in record["operations"]}
    assert {"group_norm_silu", "guided_ddim", "class_disagreement"} <= operations
    assert (
        record["speedup"]
        == record["reference"]["best"] * record["step"]["batch"] / (record["step"]["best"])
    )
    assert "papers' loop" in done.stdout


def test_a_wrong_size_is_a_usage_error(capsys):
    from whylens.jobs.cli.commands import main

    with pytest.raises(SystemExit) as end:
        main(["bench", "--size", "huge", "--device", "cpu"])
    assert end.value.code == 2
    assert "sizes: planted" in capsys.readouterr().err
