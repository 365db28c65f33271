"""Defects put into the CUDA convolutions on purpose are caught, on the host."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.emulated import conv_cases, host_build
from support.emulated.conv_cases import SEEDS, driver_of
from support.emulated.conv_mutants import MUTANTS
from support.emulated.host_build import Mutant

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with"),
]


@pytest.fixture(scope="module")
def mutant_programs() -> dict[str, Path]:
    def built(mutant: Mutant) -> Path:
        return host_build.build(driver_of(mutant.op), mutant, ("-DEMULATE_DTYPES=2", "-O0"))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip([m.name for m in MUTANTS], pool.map(built, MUTANTS), strict=True))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_defect_is_caught(mutant_programs: dict[str, Path], mutant: Mutant) -> None:
    for seeds in (SEEDS[:8], SEEDS[8:]):  # most need no more than the first
        drawn = conv_cases.cases_of(mutant.op, torch.float16, seeds)
        output, complaint = host_build.run(mutant_programs[mutant.name], conv_cases.encode(drawn))
        if complaint or conv_cases.mismatches(drawn, output):
            return
    pytest.fail("it was not caught")
