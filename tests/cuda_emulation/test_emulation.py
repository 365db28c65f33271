"""The CUDA kernels, run on the host under AddressSanitizer, against the oracle.

Each defect put into the sources on purpose must be caught: that is what shows that these tests
can fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cases
import host_build
import pytest
import torch

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with"),
]

SEEDS = range(64)


@pytest.fixture(scope="module")
def program() -> Path:
    return host_build.build()


@pytest.mark.parametrize("op", cases.OPS)
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda dtype: str(dtype).split(".")[1])
def test_kernel_agrees_with_the_oracle(program: Path, op: str, dtype: torch.dtype) -> None:
    drawn = [cases.draw(op, dtype, seed) for seed in SEEDS]
    output, complaint = cases.run(program, drawn)
    assert complaint == ""
    assert cases.mismatches(drawn, output) == []


def test_a_result_does_not_depend_on_the_order_of_blocks(program: Path) -> None:
    drawn = [cases.draw("admm_project_", torch.float32, seed) for seed in range(8)]
    first, _ = cases.run(program, drawn)
    for case in drawn:
        case.seed += 1000  # the data are drawn already: only the order changes
    second, _ = cases.run(program, drawn)
    assert first == second
    assert first != b""


MUTANTS = [
    host_build.Mutant(
        "the digit is one bin off",
        "select.cuh",
        "group.pivot = prefix << width | (top - j);",
        "group.pivot = prefix << width | (top - j + 1);",
    ),
    host_build.Mutant(
        "ties go to whoever comes first, cut one late",
        "select.cuh",
        "mine++ < group.keep",
        "mine++ <= group.keep",
    ),
    host_build.Mutant(
        "ties are not ranked across chunks",
        "select.cuh",
        "return keeps_all_ties(group) ? 0 : s.ties_in_chunk[chunk];",
        "return 0;",
    ),
    host_build.Mutant(
        "no barrier between clearing and counting",
        "select.cuh",
        "bins[bin] = 0;\n  __syncthreads();",
        "bins[bin] = 0;",
    ),
    host_build.Mutant(
        "infinity passes for a number",
        "select.cuh",
        "constexpr int kMantissa = kDigitBits - Number<T>::kExponentBits;",
        "constexpr int kMantissa = 0;",
    ),
    host_build.Mutant(
        "NaN is overlooked where nothing is kept",
        "select.cuh",
        "if (group.keep == 0 && !first) return;",
        "if (group.keep == 0) return;",
    ),
    host_build.Mutant(
        "one tensor's NaN does not stop the others",
        "admm_project.cu",
        "*s.any_nonfinite != 0",
        "segment.nonfinite != 0",
    ),
    host_build.Mutant(
        "the scan's scratch is reused too early",
        "device.cuh",
        "__syncthreads();\n  return before + inclusive - value;",
        "return before + inclusive - value;",
    ),
    host_build.Mutant(
        "a store past the end of the tensor",
        "device.cuh",
        "    if (j < valid) p[j] = pack.v[j];",
        "    if (j <= valid) p[j] = pack.v[j];",
    ),
    host_build.Mutant(
        "a vector load from an unaligned view",
        "device.cuh",
        "  if (valid == kCount && aligned_to<Pack<T, kCount>>(base)) {\n    return",
        "  if (valid == kCount) {\n    return",
    ),
]


# Unoptimised: it is compiling that takes the time. One dtype is enough to show a defect.
MUTANT_FLAGS = ("-DEMULATE_FLOAT_ONLY", "-O0")


@pytest.fixture(scope="module")
def mutant_programs() -> dict[str, Path]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = pool.map(
            lambda mutant: host_build.build(mutant=mutant, flags=MUTANT_FLAGS), MUTANTS
        )
        return {mutant.name: path for mutant, path in zip(MUTANTS, compiled, strict=True)}


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_defect_is_caught(mutant_programs: dict[str, Path], name: str) -> None:
    drawn = [cases.draw("admm_project_", torch.float32, seed) for seed in SEEDS]
    output, complaint = cases.run(mutant_programs[name], drawn)
    assert complaint or cases.mismatches(drawn, output)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("reverse", ""),
        ("collectives", ""),
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
