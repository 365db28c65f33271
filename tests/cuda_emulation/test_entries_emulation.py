"""The CUDA kernels of single kept weights on the host, against the oracle; and mutants of them."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import entries_cases
import host_build
import pytest
import torch
from host_build import Mutant

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with"),
]

SEEDS = range(64)
DRIVER = "entries_driver.cpp"
FORWARD, GRAD_INPUT, GRAD_WEIGHT = entries_cases.OPS


@pytest.fixture(scope="module")
def program() -> Path:
    return host_build.build(DRIVER)


@pytest.mark.parametrize("op", entries_cases.OPS)
@pytest.mark.parametrize("dtype", entries_cases.DTYPES, ids=str)
def test_kernel_agrees_with_the_oracle(program: Path, op: str, dtype: torch.dtype) -> None:
    drawn = entries_cases.cases_of(op, dtype, SEEDS)
    output, complaint = host_build.run(program, entries_cases.encode(drawn))
    assert complaint == ""
    assert entries_cases.mismatches(drawn, output) == []


@pytest.mark.parametrize("op", entries_cases.OPS)
def test_a_result_does_not_depend_on_the_order_of_blocks(program: Path, op: str) -> None:
    drawn = entries_cases.cases_of(op, torch.float32, range(16))
    first, _ = host_build.run(program, entries_cases.encode(drawn))
    for case in drawn:
        case.seed += 1000  # the data are drawn already: only the order changes
    second, _ = host_build.run(program, entries_cases.encode(drawn))
    assert first == second
    assert first != b""


MUTANTS = [
    Mutant("dilation is forgotten", "entries_tile.cuh", "tap * t.dilation_w", "tap", FORWARD),
    Mutant(
        "every chunk has the first columns",
        "entries_tile.cuh",
        "t.columns + first + column;",
        "t.columns + column;",
        FORWARD,
    ),
    Mutant(
        "images past the batch are read",
        "entries_tile.cuh",
        "place.image + int32_t(image) < t.batch)",
        "true)",
        FORWARD,
    ),
    Mutant(
        "pixels right of the image are written",
        "entries_tile.cuh",
        "x + lane_x < t.out_w;",
        "x + lane_x <= t.out_w;",
        FORWARD,
    ),
    Mutant(
        "a gradient is repeated between its pixels",
        "entries_tile.cuh",
        "from_x * t.up_w == virtual_x",
        "true",
        GRAD_INPUT,
    ),
    Mutant(
        "the input gradient is padded as the forward",
        "entries_tile.cuh",
        "t.pad_h = int32_t(g.dilation_h * (g.kernel_h - 1) - g.pad_h);",
        "t.pad_h = int32_t(g.pad_h);",
        GRAD_INPUT,
    ),
    Mutant(
        "a block looks at its first warp for work",
        "entries_tile.cuh",
        "for (int32_t warp = 0; warp < kWarps; ++warp) {\n      const int32_t* run",
        "for (int32_t warp = 0; warp < 1; ++warp) {\n      const int32_t* run",
        FORWARD,
    ),
    Mutant(
        "the tile is overwritten while it is read",
        "entries_conv2d.cu",
        "__syncthreads();  // the tile before has been read",
        "",
        FORWARD,
    ),
    Mutant(
        "the tile is read before it is there",
        "entries_conv2d.cu",
        "load_tile(t, place, chunk, input, tile);\n    __syncthreads();",
        "load_tile(t, place, chunk, input, tile);",
        FORWARD,
    ),
    Mutant(
        "entries are read where the warp's do not begin",
        "entries_conv2d.cu",
        "(entry - first) % 32",
        "entry % 32",
        FORWARD,
    ),
    Mutant(
        "slots without a row are written",
        "entries_conv2d.cu",
        "if (row < 0) continue;",
        "",
        FORWARD,
    ),
    Mutant(
        "the bias goes by slot",
        "entries_conv2d.cu",
        "Number<T>::widen(bias[row])",
        "Number<T>::widen(bias[slot % rows])",
        FORWARD,
    ),
    Mutant(
        "the tile of a weight's gradient is overwritten while it is read",
        "entries_conv2d_grad_weight.cu",
        "__syncthreads();  // the tile before has been read",
        "",
        GRAD_WEIGHT,
    ),
    Mutant(
        "lanes hand on what they should keep",
        "entries_conv2d_grad_weight.cu",
        "upper ? sums[i] : sums[i + kHalf]",
        "upper ? sums[i + kHalf] : sums[i]",
        GRAD_WEIGHT,
    ),
    Mutant(
        "the gradients of the first row serve all",
        "entries_conv2d_grad_weight.cu",
        "if (wanted != held) {",
        "if (held < 0) {",
        GRAD_WEIGHT,
    ),
    Mutant(
        "the last tile replaces the others",
        "entries_conv2d_grad_weight.cu",
        "result = at == split ? total : result + total;",
        "result = total;",
        GRAD_WEIGHT,
    ),
    Mutant(
        "a split is left out",
        "entries_conv2d_grad_weight.cu",
        "for (int32_t split = 0; split < splits; ++split) {",
        "for (int32_t split = 0; split + 1 < splits; ++split) {",
        GRAD_WEIGHT,
    ),
    Mutant(
        "gradients are put in the plan's order",
        "entries_conv2d_grad_weight.cu",
        "grad_weight[plan.positions[entry]]",
        "grad_weight[entry]",
        GRAD_WEIGHT,
    ),
]


@pytest.fixture(scope="module")
def mutant_programs() -> dict[str, Path]:
    def built(mutant: Mutant) -> Path:
        return host_build.build(DRIVER, mutant, ("-DEMULATE_DTYPES=1", "-O0"))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip([m.name for m in MUTANTS], pool.map(built, MUTANTS), strict=True))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_defect_is_caught(mutant_programs: dict[str, Path], mutant: Mutant) -> None:
    drawn = entries_cases.cases_of(mutant.op, torch.float32, SEEDS)
    request = entries_cases.encode(drawn)
    output, complaint = host_build.run(mutant_programs[mutant.name], request)
    assert complaint or entries_cases.mismatches(drawn, output)
