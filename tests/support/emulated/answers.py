"""The oracle's answers to the cases, and how a run's output is held against them."""

from __future__ import annotations

import torch
from torch import Tensor

from sparselth.ops import reference
from support.emulated.cases import Case


def mismatches(cases: list[Case], output: bytes) -> list[str]:
    """Compare a run's output with the oracle; return one line per case that differs."""
    wrong = []
    position = 0

    def take(like: Tensor) -> Tensor:
        nonlocal position
        size = like.numel() * like.element_size()
        chunk = bytearray(output[position : position + size])
        position += size
        if len(chunk) < size:
            raise AssertionError("the output ends too early")
        return torch.frombuffer(chunk, dtype=like.dtype).view(like.shape) if size else like

    for case in cases:
        for name, expected, exact in oracle(case):
            got = take(expected)
            same = torch.equal(bits(got), bits(expected)) if exact else close(got, expected)
            if not same:
                wrong.append(f"{case.op} {case.dtype} {name} differs; {case.label}")
    assert position == len(output), "the output is longer than expected"
    return wrong


def bits(x: Tensor) -> Tensor:
    """Return the bytes: equality then tells -0.0 from 0.0, but not one NaN from another."""
    same = x.masked_fill(x.isnan(), torch.nan) if x.is_floating_point() else x
    return same.flatten().view(torch.uint8)


def close(got: Tensor, expected: Tensor) -> bool:
    # The oracle rounds after each operation and the kernel once: a few units in the last place. Of
    # residuals, sums of thousands of squares, more: they are added in another order.
    eps = max(torch.finfo(expected.dtype).eps, 1e-13)
    a, b = got.double(), expected.double()
    return torch.allclose(a, b, rtol=8 * eps, atol=8 * eps, equal_nan=True)


def oracle(case: Case) -> list[tuple[str, Tensor, bool]]:
    """Return what driver.cpp must write: (name, tensor, whether bit for bit), in its order."""
    lists = [[x.clone() for x in tensors] for tensors in case.lists]
    if case.op == "topk_mask":
        masks, nonfinite = reference.topk_mask(*lists, case.given_k, case.global_, case.pattern)
        return [*(("mask", mask, True) for mask in masks), ("nonfinite", nonfinite, True)]
    if case.op == "weight_overlap":
        counts = reference.weight_overlap(*lists, case.k).flatten()
        # The counts of the second half of the segments are unused and stay zero.
        return [("counts", torch.cat([counts, torch.zeros_like(counts)]), True)]
    if case.op == "admm_project_":
        w, u, z = lists
        residuals = reference.admm_project_(
            w, z, u, case.given_k, case.global_, case.pattern, case.allow_nonfinite
        )
        pairs = [(("u", a, True), ("z", b, True)) for a, b in zip(u, z, strict=True)]
        return [item for pair in pairs for item in pair] + [("residuals", residuals, False)]
    if case.op == "masked_sgd_":
        *settings, nesterov, rho = case.settings
        reference.masked_sgd_(*lists, *settings, bool(nesterov), rho)
        written = {"weight": lists[0], "momentum": lists[2]}
    else:
        *settings, step, _ = case.settings
        reference.masked_adamw_(*lists, own_steps(case), int(step), *settings)
        written = {"weight": lists[0], "exp_avg": lists[2], "exp_avg_sq": lists[3]}
    return [
        (name, found, False)
        for tensors in zip(*written.values(), strict=True)
        for name, found in zip(written, tensors, strict=True)
    ]


def own_steps(case: Case) -> list[Tensor]:
    """Return the steps of masked_adamw_'s tensors, or nothing where all have the same."""
    *_, step, own = case.settings
    return [torch.tensor(step + i) for i in range(len(case.lists[0]))] if own else []
