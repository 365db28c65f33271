"""The CUDA kernels, run on the host under AddressSanitizer, against the oracle."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from support.emulated import answers, cases, host_build

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with"),
]


@pytest.fixture(scope="module")
def program() -> Path:
    return host_build.build()


@pytest.mark.parametrize("op", cases.OPS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda dtype: str(dtype).split(".")[1])
def test_kernel_agrees_with_the_oracle(program: Path, op: str, dtype: torch.dtype) -> None:
    drawn = cases.cases_of(op, dtype, cases.SEEDS)
    output, complaint = host_build.run(program, cases.encode(drawn))
    assert complaint == ""
    assert answers.mismatches(drawn, output) == []


def test_a_result_does_not_depend_on_the_order_of_blocks(program: Path) -> None:
    drawn = [cases.draw("admm_project_", torch.float32, seed) for seed in range(8)]
    first, _ = host_build.run(program, cases.encode(drawn))
    for case in drawn:
        case.seed += 1000  # the data are drawn already: only the order changes
    second, _ = host_build.run(program, cases.encode(drawn))
    assert first == second
    assert first != b""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("reverse", ""),
        ("collectives", ""),
        ("matrices", ""),
        ("matrices_as_they_lie", ""),
        ("async_copies", ""),
        ("left_over", ""),
        ("early_return", "not all threads reach the barrier"),
        ("divided_warp", "a warp's collectives differ"),
        ("shared_overrun", "use-after-poison"),
    ],
)
def test_the_emulation_itself(name: str, says: str) -> None:
    program = host_build.build("self_test.cpp", flags=("-O0",))
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([str(program), name], capture_output=True, text=True, env=env)
    assert (done.returncode == 0) == (says == ""), done.stderr
    assert says in done.stderr
