"""The kernels' own tests once more, with the Triton kernels in Triton's interpreter on the CPU.

Triton reads TRITON_INTERPRET when it is imported, so this takes another process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_the_triton_kernels_pass_the_same_tests():
    pytest.importorskip("triton")
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "WHYLENS_KERNELS": "triton",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    names = ("guided_ddim", "class_disagreement", "group_norm_silu", "geglu", "cutouts")
    files = [str(HERE / f"test_{name}.py") for name in names]
    result = subprocess.run(
        [*command, *files],
        env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
