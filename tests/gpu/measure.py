"""The figures of a GPU, part by part, each within its own time: see measure.sh.

Each part is a process of its own, so that one that fails, hangs or is stopped loses no other's
figures, nor its own of before. Where there are cores for it, all of them import what they need at
first, side by side, and then wait for their turn.
"""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MARK = "FIGURE "
USUAL = 235.0
TOTAL = float(os.environ.get("MEASURE_SECONDS", USUAL))
# Processes that import side by side, and how long they may take for it.
TOGETHER = max(1, (os.cpu_count() or 1) // 2)
IMPORTING = 40.0
READY = "READY"
PLAIN = "kernels=off&channels_last=off&compile=off"


# ---- the parts ----


def figure(name: str, value: Any) -> None:
    """Say a figure at once: what comes later may fail."""
    print(MARK + json.dumps({name: value}), flush=True)


def tried(name: str, call: Callable[[], Any]) -> None:
    """A figure, or why there is none."""
    import torch

    try:
        figure(name, call())
    except Exception as error:
        figure(name, {"error": f"{type(error).__name__}: {str(error)[:300]}"})
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Bench:
    """Setups of the size that this machine can do, and what is measured of them."""

    def __init__(self) -> None:
        import torch

        from whylens.bench.setups import setup_of

        self.gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.size = "sd14" if self.gpu else "tiny"
        self.setup = setup_of(self.size)
        self.steps = 2 if self.gpu else 1

    def sampler(self, options: str) -> Any:
        """The size's networks with options."""
        from whylens.diffusion import load_sampler

        return load_sampler(f"{self.setup.sampler}?{options}", self.device)

    def classifier(self, options: str = "kernels=auto") -> Any:
        """The size's classifier."""
        from whylens.classifiers import load_classifier

        return load_classifier(f"{self.setup.classifier}?{options}", self.device)

    def half(self) -> str:
        """The sampler's dtype: bfloat16 where there is a GPU."""
        half = "dtype=bfloat16" if self.gpu else "dtype=float32"
        return half + os.environ.get("MEASURE_OPTIONS", "")

    def steps_of(self, sampler: Any, classifier: Any, **changed: Any) -> dict[str, Any]:
        """Seconds and memory of optimisation steps, of a setup that is changed."""
        from dataclasses import asdict

        from whylens.bench.steps import time_steps

        setup = replace(self.setup, **changed)
        taken = time_steps(sampler, classifier, setup, self.steps)
        return {**asdict(taken), "best": taken.best, "seconds_a_problem": taken.best / taken.batch}


def reference() -> None:
    """The papers' loop, float32, one problem."""
    from dataclasses import asdict

    from whylens.bench.steps import time_reference

    bench = Bench()
    sampler = bench.sampler(f"dtype=float32&{PLAIN}&graphs=off")
    classifier = bench.classifier(PLAIN)

    def loop() -> dict[str, Any]:
        taken = time_reference(sampler, classifier, bench.setup, bench.steps)
        return {**asdict(taken), "best": taken.best}

    tried("reference_fp32_b1", loop)


def batches() -> None:
    """whylens as it is by default: the whole record at the size's batch, then other batches."""
    from whylens.bench.report import bench as record

    bench = Bench()
    asked = replace(bench.setup, sampler=f"{bench.setup.sampler}?{bench.half()}")
    tried(
        "bench",
        lambda: record(
            asked, bench.device, steps=bench.steps, reference=False, operation_seconds=0
        ),
    )
    sampler, classifier = bench.sampler(bench.half()), bench.classifier()
    for batch in (1, 8) if bench.gpu else (1,):
        tried(f"b{batch}", partial(bench.steps_of, sampler, classifier, batch=batch))


def alone() -> None:
    """Each way to be faster alone, and none of them, at the size's batch."""
    bench = Bench()
    bench.steps = 1

    def single() -> dict[str, Any]:
        sampler = bench.sampler("dtype=float32")
        return bench.steps_of(sampler, bench.classifier(), batch=1)

    tried("whylens_fp32_b1", single)
    layers = "kernels={}&channels_last={}&compile=off"
    ways = {
        "none": (PLAIN, "off"),
        "kernels": (layers.format("on", "off"), "off"),
        "channels_last": (layers.format("off", "on"), "off"),
        "kernels_channels_last": (layers.format("on", "on"), "off"),
        "graphs": (PLAIN, "on"),
    }
    for name, (options, graphs) in ways.items():

        def steps(options: str = options, graphs: str = graphs) -> dict[str, Any]:
            sampler = bench.sampler(f"{bench.half()}&{options}&graphs={graphs}")
            return bench.steps_of(sampler, bench.classifier(options))

        tried(f"alone_{name}", steps)


def compiled() -> None:
    """Blocks compiled from the first call on, and what compiling them took."""
    bench = Bench()
    every = "kernels=on&channels_last=on"
    for name, options, classifier in (
        ("compiled_sampler", "compile=on", "compile=off"),
        ("compiled", "compile=on", "compile=on"),
    ):

        def steps(options: str = options, classifier: str = classifier) -> dict[str, Any]:
            sampler = bench.sampler(f"{bench.half()}&{every}&{options}")
            begun = time.monotonic()
            taken = bench.steps_of(sampler, bench.classifier(f"{every}&{classifier}"))
            spent = time.monotonic() - begun - (bench.steps + 1) * taken["best"]
            return {**taken, "compiling_seconds": round(spent, 1)}

        tried(name, steps)


def few() -> None:
    """One step without guidance, as Turbo models take it, beside the published 20."""
    bench = Bench()
    sampler, classifier = bench.sampler(bench.half()), bench.classifier()
    chain = bench.setup.guidance.chain.model_copy(update={"steps": 1, "guidance_scale": 0.0})
    views = bench.setup.guidance.views.model_copy(update={"predictions": 1})
    guidance = bench.setup.guidance.model_copy(update={"chain": chain, "views": views})
    tried("one_step", lambda: bench.steps_of(sampler, classifier, guidance=guidance))
    tried(
        "one_step_b16",
        lambda: bench.steps_of(sampler, classifier, guidance=guidance, batch=4 * bench.setup.batch),
    )
    guided = chain.model_copy(update={"steps": bench.setup.guidance.chain.steps})
    long = guidance.model_copy(update={"chain": guided})
    tried("many_steps", lambda: bench.steps_of(sampler, classifier, guidance=long))


def kernels() -> None:
    """Each operation beside plain PyTorch."""
    from whylens.bench.operations import rows

    every = []
    for row in rows(Bench().device.type, seconds=0.15):
        every.append(row)
        figure("kernels", every)


def tests() -> None:
    """tests/gpu: how many pass, and what fails."""
    import pytest

    class Counted:
        def __init__(self) -> None:
            self.ended: dict[str, int] = {}
            self.failures: dict[str, str] = {}
            self.slow: dict[str, float] = {}

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.duration > 2:
                self.slow[f"{report.nodeid} {report.when}"] = round(report.duration, 1)
                figure("tests_slow", self.slow)
            if report.when == "call" or report.outcome != "passed":
                self.ended[report.outcome] = self.ended.get(report.outcome, 0) + 1
                if report.failed:
                    text = str(report.longrepr).strip().splitlines()
                    self.failures[report.nodeid] = text[-1][:300] if text else ""
                    figure("tests_failed", self.failures)

    counted = Counted()
    code = pytest.main(["-q", "-p", "no:cacheprovider", str(HERE)], plugins=[counted])
    figure("tests", {"exit_code": int(code), **counted.ended})


def sdxl() -> None:
    """SDXL's size, where there is memory for it."""
    from whylens.bench.setups import setup_of

    bench = Bench()
    if not bench.gpu:
        figure("sdxl_b1", {"error": "no GPU"})
        return
    bench.setup = setup_of("sdxl")
    chain = bench.setup.guidance.chain
    bench.steps = 1
    sampler, classifier = bench.sampler(bench.half()), bench.classifier()
    tried("sdxl_b1", lambda: bench.steps_of(sampler, classifier))
    turbo = chain.model_copy(update={"steps": 1, "guidance_scale": 0.0})
    views = bench.setup.guidance.views.model_copy(update={"predictions": 1})
    guidance = bench.setup.guidance.model_copy(update={"chain": turbo, "views": views})
    tried("sdxl_one_step_b1", lambda: bench.steps_of(sampler, classifier, guidance=guidance))


# In this order, the most important first; seconds that each may take of the usual total.
PARTS: dict[str, tuple[Callable[[], None], float]] = {
    "reference": (reference, 40),
    "batches": (batches, 80),
    "few": (few, 40),
    "kernels": (kernels, 50),
    "tests": (tests, 60),
    "alone": (alone, 60),
    "sdxl": (sdxl, 60),
    "compiled": (compiled, 200),
}


def part(name: str) -> None:
    """A part's process: import, wait for the turn, measure."""
    for library in ("torch", "diffusers", "transformers", "timm", "whylens.bench.report"):
        __import__(library)
    print(READY, flush=True)
    sys.stdin.readline()
    PARTS[name][0]()


# ---- the whole ----

OF_THE_RECORD = (
    "machine", "torch", "batch", "peak_gib", "floor_ratio", "recomputed_ratio", "mfu", "step_mfu",
    "peak_flops",
)  # fmt: skip


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures that are asked for, of those that are there."""

    def of(name: str, key: str) -> Any:
        found = figures.get(name, {})
        return found.get(key) if isinstance(found, dict) else None

    loop, record = of("reference_fp32_b1", "best"), figures.get("bench", {})
    found = {key: record.get(key) for key in OF_THE_RECORD}
    found["reference_seconds"], found["reference_gib"] = loop, of("reference_fp32_b1", "peak_gib")
    best = record.get("step", {}).get("best")
    each = {"bench": best / record["step"]["batch"] if best else None}
    each |= {name: of(name, "seconds_a_problem") for name in figures if name not in ("bench",)}
    found["seconds_a_problem"] = {name: value for name, value in each.items() if value}
    found["gib"] = {name: of(name, "peak_gib") for name in figures if of(name, "peak_gib")}
    if loop:
        found["speedup"] = {n: round(loop / v, 2) for n, v in found["seconds_a_problem"].items()}
    few, many = of("one_step", "seconds_a_problem"), of("many_steps", "seconds_a_problem")
    # Beside the published 20 guided steps with three predictions, and beside 20 that do as it does.
    found["one_step_ratio"] = each["bench"] / few if few and each["bench"] else None
    found["one_step_ratio_alike"] = many / few if few and many else None
    found["tests"], found["tests_failed"] = figures.get("tests"), figures.get("tests_failed")
    return found


def main() -> int:
    """Run the parts one after the other, and say what came of them."""
    began = time.monotonic()
    out = Path(os.environ.get("OUT", "out"))
    out.mkdir(parents=True, exist_ok=True)
    names = os.environ.get("MEASURE_PARTS", ",".join(PARTS)).split(",")
    waiting, started = list(names), {}
    figures: dict[str, Any] = {}
    ended: dict[str, Any] = {}

    def start() -> None:
        name = waiting.pop(0)
        with (out / f"{name}.log").open("w") as log:
            started[name] = subprocess.Popen(
                [sys.executable, __file__, "part", name],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    for name in names:
        while waiting and len(started) < TOGETHER:
            start()
        if not ended:
            _wait(out, started)
        process, before = started[name], time.monotonic()
        left = min(PARTS[name][1] * TOTAL / USUAL, TOTAL - (before - began))
        state = "no time was left"
        if left > 5:
            state = _turn(process, left)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        del started[name]
        lines = (out / f"{name}.log").read_text(errors="replace").splitlines()
        for line in lines:
            if line.startswith(MARK):
                figures |= json.loads(line.removeprefix(MARK))
        said = [line for line in lines if line.strip() and not line.startswith((MARK, READY))]
        ended[name] = {"state": state, "seconds": round(time.monotonic() - before, 1)}
        if state != "done" and said:
            ended[name]["last_line"] = said[-1][:300]
        print(name, json.dumps(ended[name]), file=sys.stderr, flush=True)
        whole = {"summary": summary(figures), "parts": ended, "figures": figures}
        (out / "gpu.json").write_text(json.dumps(whole, indent=1))
    print(json.dumps({**summary(figures), "parts": {n: e["state"] for n, e in ended.items()}}))
    return 0


def _wait(out: Path, started: dict[str, subprocess.Popen[bytes]]) -> None:
    """Until all have imported, so that no import slows down what is measured."""
    until = time.monotonic() + IMPORTING
    while time.monotonic() < until and any(
        process.poll() is None and READY not in (out / f"{name}.log").read_text(errors="replace")
        for name, process in started.items()
    ):
        time.sleep(0.2)


def _turn(process: subprocess.Popen[bytes], seconds: float) -> str:
    """Let a part's process measure; how it ended."""
    assert process.stdin is not None
    try:
        process.stdin.write(b"go\n")
        process.stdin.flush()
        code = process.wait(timeout=seconds)
    except BrokenPipeError:
        return "it ended before its turn"
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return "done" if code == 0 else f"exit code {code}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["part"]:
        part(sys.argv[2])
    else:
        sys.exit(main())
