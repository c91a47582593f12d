"""How fast the operations of whylens.kernels are beside the plain PyTorch that they replace.

    python tests/benchmarks/kernels.py                          # the GPU where there is one
    python tests/benchmarks/kernels.py --device cpu --seconds 3
    python tests/benchmarks/kernels.py --operations group_norm_silu geglu

Prints a table and, as its last line, JSON: `whylens.bench.operations` says what is in a row.
"""

import argparse
import json
import sys

import torch

from whylens.bench.operations import OPERATIONS, PASSES, rows


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=usual)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each shape")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    arguments = parser.parse_args()
    device = arguments.device
    machine = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"a CPU, {torch.get_num_threads()} threads (no GPU: PyTorch paths, not Triton)"
    )
    print(f"Measured on {machine}")
    print(f"{'':18} {'':22} " + " ".join(f"{which:>17}" for which in PASSES) + "   held MB")
    every = []
    for found in rows(device, seconds=arguments.seconds, operations=arguments.operations):
        every.append(found)
        each = " ".join(f"{found[p]['ratio']:5.2f}x {found[p]['gb_s']:5.0f} GB/s" for p in PASSES)
        held_mb = "{} / {}".format(*found["held_mb"])
        name, shape = found["operation"], found["shape"]
        print(f"{name:18} {shape!s:22} {each}   {held_mb}", flush=True)
    print(json.dumps({"device": device, "where": machine, "rows": every}))


if __name__ == "__main__":
    sys.exit(main())
