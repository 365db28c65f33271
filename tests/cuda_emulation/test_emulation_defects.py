"""Defects put into the CUDA kernels on purpose are caught: that shows that the tests can fail."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.emulated import answers, cases, host_build

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with"),
]

MUTANTS = [
    host_build.Mutant(
        "the digit is one bin off",
        "select.cuh",
        "pool.pivot = prefix << width | (top - j);",
        "pool.pivot = prefix << width | (top - j + 1);",
    ),
    host_build.Mutant(
        "ties go to whoever comes first, cut one late",
        "select.cuh",
        "mine++ < pool.keep",
        "mine++ <= pool.keep",
    ),
    host_build.Mutant(
        "ties are not ranked across chunks",
        "select.cuh",
        "return keeps_all_ties(pool) ? 0 : s.ties_in_chunk[chunk];",
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
        "topk_mask",
    ),
    host_build.Mutant(
        "NaN is overlooked where nothing is kept",
        "select.cuh",
        "if (pool.keep == 0 && !first) return;",
        "if (pool.keep == 0) return;",
        "weight_overlap",
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
    host_build.Mutant(
        "squares are fused with the addition",
        "group_scores.cuh",
        "return __dadd_rn(sum, __dmul_rn(value, value));",
        "return fma(value, value, sum);",
        "topk_mask",
        torch.float64,
    ),
    host_build.Mutant(
        "inputs are added in pairs of neighbors",
        "group_scores.cuh",
        "for (uint32_t half = lanes / 2; half > 0; half /= 2) {",
        "for (uint32_t half = 1; half < lanes; half *= 2) {",
        "topk_mask",
    ),
    host_build.Mutant(
        "inputs are added before outs",
        "group_scores.cuh",
        "if (++row == box_out) row = 0, input += kLanes;",
        "if ((input += kLanes) >= place.inputs) input = place.lane, ++row;",
        "topk_mask",
    ),
    host_build.Mutant(
        "no barrier between the turns of a sum",
        "group_scores.cuh",
        "if (turns > 1) __syncthreads();",
        "",
    ),
    host_build.Mutant(
        "no barrier between partial sums and scores",
        "group_scores.cuh",
        "__syncthreads();\n    if (p.shaped) {",
        "if (p.shaped) {",
    ),
    host_build.Mutant(
        "a group does not go on in the next slice of taps",
        "group_scores.cuh",
        "tap < first_tap ? *score : 0;",
        "false ? *score : 0;",
        "topk_mask",
    ),
    host_build.Mutant(
        "a box at the edge has all its outs",
        "group_scores.cuh",
        "row < place.rows && input < place.inputs",
        "place.rows > 0 && input < place.inputs",
        "topk_mask",
    ),
    host_build.Mutant(
        "NaN keeps its bits",
        "group_scores.cuh",
        'return score == score ? score : nan("");',
        "return score;",
        "topk_mask",
    ),
    host_build.Mutant(
        "of equal shapes the last is taken",
        "group_scores.cuh",
        "magnitude_key(sum) > magnitude_key(best)",
        "magnitude_key(sum) >= magnitude_key(best)",
        "topk_mask",
    ),
    host_build.Mutant(
        "the dictionary is forgotten where kernels are kept",
        "kept_groups.cuh",
        "!p.shaped ||",
        "true ||",
    ),
    host_build.Mutant(
        "ties of N:M go to the last",
        "kept_groups.cuh",
        "lane < place.lane",
        "lane > place.lane",
        "topk_mask",
    ),
    host_build.Mutant(
        "no barrier between the keys of N:M and their ranks",
        "kept_groups.cuh",
        "    __syncthreads();\n    for (uint32_t at",
        "    for (uint32_t at",
    ),
    host_build.Mutant(
        "the mask of an overlap is ignored",
        "segments.cuh",
        "  return bits & within;",
        "  return within;",
        "weight_overlap",
    ),
    host_build.Mutant(
        "the dual pulls the other way",
        "optimizer_step.cuh",
        "+ Number<T>::widen(u.v[j])",
        "- Number<T>::widen(u.v[j])",
        "masked_sgd_",
    ),
    host_build.Mutant(
        "moments outside the mask",
        "optimizer_step.cuh",
        "Number<T>::narrow(survives ? state[s] : C(0))",
        "Number<T>::narrow(state[s])",
        "masked_adamw_",
    ),
    host_build.Mutant(
        "the second moment is not corrected",
        "masked_adamw.cu",
        "root(1 / sqrt(1 - pow(s.beta2, t)))",
        "root(1)",
        "masked_adamw_",
    ),
    host_build.Mutant(
        "a tensor's own step is not read",
        "masked_adamw.cu",
        "t.step == nullptr ? shared : AdamwCorrections(settings, *t.step)",
        "shared",
        "masked_adamw_",
    ),
    host_build.Mutant(
        "weights decay with the gradient's sign",
        "masked_adamw.cu",
        "1 - s.lr * s.weight_decay",
        "1 + s.lr * s.weight_decay",
        "masked_adamw_",
    ),
]


def mutant_program(mutant: host_build.Mutant) -> Path:
    # Unoptimized, and nothing but what it is run with: it is compiling that takes the time.
    op, dtype = cases.OPS.index(mutant.op), cases.DTYPES.index(mutant.dtype)
    only = (f"-DEMULATE_OPS={1 << op}", f"-DEMULATE_DTYPES={1 << dtype}", "-O0")
    return host_build.build(mutant=mutant, flags=only)


@pytest.fixture(scope="module")
def mutant_programs() -> dict[str, Path]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = pool.map(mutant_program, MUTANTS)
        return {mutant.name: path for mutant, path in zip(MUTANTS, compiled, strict=True)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_defect_is_caught(mutant_programs: dict[str, Path], mutant: host_build.Mutant) -> None:
    for seeds in (cases.SEEDS[:8], cases.SEEDS[8:]):  # most need no more than the first
        drawn = cases.cases_of(mutant.op, mutant.dtype, seeds)
        output, complaint = host_build.run(mutant_programs[mutant.name], cases.encode(drawn))
        if complaint or answers.mismatches(drawn, output):
            return
    pytest.fail("it was not caught")
