"""Kill -9 a run at random moments, start the same command again, and compare with undisturbed.

By hand, from the repository's root: `python tests/jobs/kill_twenty_times.py`. The tests use the
same code with fewer kills.
"""

import argparse
import contextlib
import io
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image

MARK = "WHYLENS_TEST_RUN"
TOLERANCE = 1e-5
GUIDANCE = {"chain": {"steps": 2}, "optimiser": {"steps": 2}, "views": {"cutouts": 1}}
TABLES = (
    "images",
    "components",
    "findings",
    "exemplars",
    "mined",
    "generated",
    "counterfactuals",
    "disagreements",
)


def build_sampler(folder: Path) -> Path:
    """A StableDiffusionPipeline of 64 x 64 images with random weights and few channels."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from whylens.planted.networks.pipeline import CAPTION_LENGTH, assemble, build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder.parent / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CAPTION_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    assemble(tokenizer, CLIPTextModel(text), autoencoder, unet).save_pretrained(folder)
    return folder


def write_spec(folder: Path, workers: int) -> Path:
    """A small investigation with several units a stage, by up to so many workers."""
    spec = {
        "images": "planted:linked?count=300&seed=7",
        "second": "planted:unlinked?count=300&seed=8",
        "classifier": "planted:biased",
        "against": "planted:balanced",
        "sampler": str(build_sampler(folder / "sampler")),
        "unit": 50,
        "components": {"top": 4, "mined": 8},
        "exemplars": {"findings": 6, "at_least": 4, "exemplars": 2},
        "visualisations": {"steps": 4},
        "generate": {"findings": 3, "images": 2, "batch": 2, "guidance": GUIDANCE},
        "counterfactuals": {"images": 6, "batch": 2, "guidance": GUIDANCE},
        "disagreements": {"most_classes": 3, "images": 1, "batch": 1, "guidance": GUIDANCE},
        "placement": {"workers": [1, workers]},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def parts(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every finished part of a run."""
    found = {}
    for path in sorted(out.glob("tables/*/*.parquet")):
        if not path.name.startswith("."):
            there = path.stat()
            found[str(path.relative_to(out))] = (there.st_ino, there.st_mtime_ns)
    return found


class Command:
    """`whylens investigate` in a process group of its own, with a Ray session of its own.

    Its processes, Ray's among them, carry a mark in their environment: only those are ever killed.
    """

    def __init__(self, spec: Path, out: Path) -> None:
        self.mark = uuid.uuid4().hex
        # Short, because Ray's sockets lie in it: a socket's path has at most 107 characters.
        self._temporary = tempfile.TemporaryDirectory(prefix="wl-", ignore_cleanup_errors=True)
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environment |= {
            MARK: self.mark,
            "RAY_TMPDIR": self._temporary.name,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._log = Path(self._temporary.name, "log")
        words = ["investigate", "--spec", str(spec), "--out", str(out)]
        with self._log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "whylens.jobs.cli", *words],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float) -> bool:
        """Whether the command ended by itself within that time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_for_work(self, out: Path) -> bool:
        """Whether the command ended before it finished one part more than there are."""
        before = len(parts(out))
        while len(parts(out)) == before:
            if self.wait(0.1):
                return True
        return False

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def kill(self) -> None:
        """Kill -9 the process group, then Ray's processes, and wait until all are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        until = time.monotonic() + 60
        while there := self.processes():
            assert time.monotonic() < until, f"kill -9 did not end {there}"
            for process in there:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(there, timeout=1)
        self._temporary.cleanup()


def finish(spec: Path, out: Path) -> tuple[float, float]:
    """Let the command run to its end; seconds to its first new part, and in all."""
    began = time.monotonic()
    command = Command(spec, out)
    try:
        command.wait_for_work(out)
        first = time.monotonic() - began
        assert command.wait(900)
        assert command.process.returncode == 0, command.log()
    finally:
        command.kill()
    return first, time.monotonic() - began


@dataclass
class Kill:
    """One kill: seconds after the start, and how many parts there were then and before."""

    moment: float
    done_before: int
    done: int


@dataclass
class Result:
    """What the kills did: which of them met a run, and how the runs ended."""

    undisturbed: float
    kills: list[Kill] = field(default_factory=list)
    finished: int = 0
    differences: list[str] = field(default_factory=list)


def moments(count: int, longest: float, seed: int) -> list[float]:
    """Random moments from 1 s to `longest`, one in each `count`-th of that time, in any order."""
    rng = np.random.default_rng(seed)
    places = (rng.permutation(count) + rng.random(count)) / count
    return [float(m) for m in 1 + places * (longest - 1)]


def kill_again_and_again(
    work: Path, count: int, seed: int, workers: int = 2, say=lambda line: None
) -> Result:
    """Kill runs `count` times; each run is gone on with until it ends, and is then compared.

    Moments are counted from the command's first new part, and in turn from its start, so that
    half of the kills at least meet a stage at work however slow a start is. A run that ends before
    its next kill leaves that kill to a new run.
    """
    spec = write_spec(work, workers)
    expected = work / "undisturbed"
    first, undisturbed = finish(spec, expected)
    result = Result(undisturbed)
    say(
        f"undisturbed: {len(parts(expected))} parts in {undisturbed:.1f} s, "
        f"the first after {first:.1f} s"
    )
    out = work / "killed-0"
    for number, drawn in enumerate(moments(count, undisturbed, seed)):
        at_work = number % 2 == 0
        while True:
            before = parts(out)
            began = time.monotonic()
            command = Command(spec, out)
            try:
                if at_work:
                    ended = command.wait_for_work(out) or command.wait(
                        drawn * (undisturbed - first) / undisturbed
                    )
                else:
                    ended = command.wait(drawn)
                moment = time.monotonic() - began
                assert not ended or command.process.returncode == 0, command.log()
            finally:
                command.kill()
            after = parts(out)
            result.differences += done_twice(before, after)
            if not ended:
                break
            _compare(expected, out, result, say)
            out = work / f"killed-{result.finished}"
            # It was faster than undisturbed: the same moment might miss the next run as well.
            drawn *= 0.6
        result.kills.append(Kill(moment, len(before), len(after)))
        stage = Path(max(after, key=lambda name: after[name][1])).parent.name if after else "none"
        say(
            f"kill {number + 1:2d} after {moment:5.1f} s of {out.name}: "
            f"{len(before)} -> {len(after)} parts, the last: {stage}"
        )
    before = parts(out)
    _, seconds = finish(spec, out)
    result.differences += done_twice(before, parts(out))
    say(f"the same command again, left alone: {seconds:.1f} s")
    _compare(expected, out, result, say)
    return result


def _compare(expected: Path, out: Path, result: Result, say) -> None:
    found = differences(expected, out)
    result.finished += 1
    result.differences += found
    say(f"{out.name} finished: {len(parts(out))} parts, {len(found)} differences")


def done_twice(before: dict, after: dict) -> list[str]:
    """Parts that were finished before and are not the same files any more."""
    return [f"{name} was written again" for name in before if after.get(name) != before[name]]


def differences(expected: Path, out: Path) -> list[str]:
    """Where two runs' tables differ, and whatever an interrupted write left behind."""
    found = [f"left behind: {path}" for path in out.rglob(".aside-*")]
    one, other = parts(expected), parts(out)
    written = {name.split("/")[1] for name in one}
    found += [f"the undisturbed run has no table {name}" for name in TABLES if name not in written]
    if one.keys() != other.keys():
        found.append(f"parts differ: {sorted(one.keys() ^ other.keys())}")
    for name in sorted(one.keys() & other.keys()):
        a = pq.read_table(expected / name).to_pylist()
        b = pq.read_table(out / name).to_pylist()
        found += [f"{name}{where}" for where in _unequal(a, b)]
    arrays = [{str(p.relative_to(r)) for p in r.glob("components/*")} for r in (expected, out)]
    if arrays[0] != arrays[1]:
        found.append(f"arrays differ: {sorted(arrays[0] ^ arrays[1])}")
    record = yaml.safe_load((out / "run.json").read_text())
    if record["state"] != "finished":
        found.append(f"run.json says {record['state']}")
    found += [f"a warning: {text}" for text in record["warnings"] if "failed" in text]
    if not (out / "report.html").is_file():
        found.append("no report.html")
    return found


def _unequal(a, b, where: str = ""):
    """Paths at which two values differ: numbers by more than the tolerance, pictures by a pixel."""
    if type(a) is not type(b):
        yield f"{where}: {a!r:.60} and {b!r:.60}"
    elif isinstance(a, dict):
        for key in a.keys() | b.keys():
            yield from _unequal(a.get(key), b.get(key), f"{where}.{key}")
    elif isinstance(a, list):
        if len(a) != len(b):
            yield f"{where}: {len(a)} and {len(b)} items"
        for index, pair in enumerate(zip(a, b, strict=False)):
            yield from _unequal(*pair, f"{where}[{index}]")
    elif isinstance(a, bytes):
        if not np.array_equal(*(np.asarray(Image.open(io.BytesIO(c))) for c in (a, b))):
            yield f"{where}: other pictures"
    elif isinstance(a, float):
        if not (math.isnan(a) and math.isnan(b)) and not abs(a - b) <= TOLERANCE:
            yield f"{where}: {a} and {b}"
    elif a != b:
        yield f"{where}: {a!r:.60} and {b!r:.60}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="kills-") as work:
        result = kill_again_and_again(Path(work), arguments.kills, arguments.seed, say=say)
    at_work = sum(kill.done > kill.done_before for kill in result.kills)
    say(
        f"{len(result.kills)} kills, {at_work} of them after new parts; "
        f"{result.finished} runs finished; {len(result.differences)} differences from undisturbed"
    )
    for line in result.differences:
        say(f"  {line}")
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())
