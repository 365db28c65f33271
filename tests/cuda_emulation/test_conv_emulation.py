"""The CUDA convolutions on the host, against the oracle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.emulated import conv_cases, host_build
from support.emulated.conv_cases import OPS, SEEDS, driver_of

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with"),
]
CALLS = [
    *((op, dtype) for op in conv_cases.ENTRIES for dtype in conv_cases.DTYPES),
    *((op, dtype) for op in conv_cases.VECTORS for dtype in conv_cases.HALVES),
    *((op, dtype) for op in conv_cases.BLOCKS for dtype in conv_cases.HALVES),
]


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    return {driver: host_build.build(driver) for driver in sorted({driver_of(op) for op in OPS})}


@pytest.mark.parametrize(("op", "dtype"), CALLS, ids=str)
def test_kernel_agrees_with_the_oracle(programs, op: str, dtype: torch.dtype) -> None:
    drawn = conv_cases.cases_of(op, dtype, SEEDS)
    output, complaint = host_build.run(programs[driver_of(op)], conv_cases.encode(drawn))
    assert complaint == ""
    assert conv_cases.mismatches(drawn, output) == []


@pytest.mark.parametrize("op", OPS)
def test_a_result_does_not_depend_on_the_order_of_blocks(programs, op: str) -> None:
    drawn = conv_cases.cases_of(op, torch.float16, range(16))
    program = programs[driver_of(op)]
    first, _ = host_build.run(program, conv_cases.encode(drawn))
    for case in drawn:
        case.seed += 1000  # the data are drawn already: only the order changes
    second, _ = host_build.run(program, conv_cases.encode(drawn))
    assert first == second
    assert first != b""


# What the words of a plan are overwritten with.
GARBAGE = (1 << 30, -1, (255 << 5) + 31)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("value", GARBAGE)
def test_a_plan_that_leads_outside_stops_the_kernel(programs, op: str, value: int) -> None:
    case = next(c for c in conv_cases.cases_of(op, torch.float16, SEEDS) if _words(c) > 8)
    plan, complaints = case.arrays[0], []
    for words in (slice(-1, None), slice(-17, -1), slice(len(plan) // 2, None), slice(0, None)):
        case.arrays[0] = plan.clone()
        case.arrays[0][words] = value
        output, complaint = host_build.run(programs[driver_of(op)], conv_cases.encode([case]))
        complaints.append(complaint)
        # A value may also be a good one; a plan of which every run is empty leads nowhere.
        if complaint == "":
            assert len(output) == case.oracle().numel() * case.dtype.itemsize
        else:  # not AddressSanitizer's: nothing outside is read
            assert "trap: a plan leads outside" in complaint
    assert any(complaints)


@pytest.mark.parametrize("op", OPS)
def test_a_plan_of_another_length_is_refused(programs, op: str) -> None:
    case = conv_cases.draw(op, torch.float16, 3)
    case.arrays[0] = case.arrays[0][:-1]
    _, complaint = host_build.run(programs[driver_of(op)], conv_cases.encode([case]))
    assert "the plan's length is wrong" in complaint


def _words(case: conv_cases.Case) -> int:
    return int(case.arguments[2].sum())  # of the mask
