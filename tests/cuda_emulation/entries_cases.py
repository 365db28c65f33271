"""Random convolutions for the emulated kernels of single kept weights, and the oracle's answers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparselth.ops import reference_entries
from sparselth.ops.entries import find_entries, fits_all

OPS = ("entries_conv2d", "entries_conv2d_grad_input", "entries_conv2d_grad_weight")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class Case:
    """One call: `arguments` as the op takes them, `arrays` as the driver reads them."""

    op: str
    dtype: torch.dtype
    seed: int
    shapes: tuple[int, ...]
    """x, weight, stride, padding, dilation, groups, flat."""
    arguments: tuple[Any, ...]
    arrays: list[Tensor]
    has_bias: bool
    label: str

    def encode(self) -> bytes:
        head = (OPS.index(self.op), DTYPES.index(self.dtype), self.seed, self.has_bias)
        plan, *arrays = self.arrays
        parts = [struct.pack("20q", *head, *self.shapes, plan.numel()), _raw(plan)]
        return b"".join(parts + [_raw(a) for a in arrays])

    def oracle(self) -> Tensor:
        wide = [a.float() if _is_data(a) else a for a in self.arguments]
        return getattr(reference_entries, self.op)(*wide)


def _is_data(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _raw(x: Tensor) -> bytes:
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes() if x.numel() else b""


def draw(op: str, dtype: torch.dtype, seed: int) -> Case:
    """Return the case of a seed: geometry, groups, sparsity, bias vary; NaN where nothing is kept.

    Every eighth has planes so large that a lane holds eight pixels, every eighth more columns than
    are in shared memory at a time, every eighth more rows than a block has, every eighth both.
    """
    g = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=g))

    while True:
        groups = (1, 1, 1, 2, 3)[integer(0, 4)]
        outs, ins = integer(1, 5), integer(1, 5)
        if seed % 8 in (2, 5):
            ins = integer(30, 70)
        if seed % 8 in (4, 5):
            outs = integer(60, 70)
        kernel = (integer(1, 3), integer(1, 3))
        height, width = integer(1, 7), integer(1, 9)
        if seed % 8 == 6:
            height, width = integer(9, 17), integer(17, 40)
        stride, dilation = [integer(1, 2), integer(1, 3)], [integer(1, 2), integer(1, 2)]
        padding = [integer(0, 2), integer(0, 2)]
        reach = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
        there = height + 2 * padding[0] >= reach[0] and width + 2 * padding[1] >= reach[1]
        conv = (stride, padding, dilation, groups)
        shape = (outs * groups, ins, *kernel)
        if there and fits_all(shape, (height, width), conv):
            break
    batch = integer(1, 5) if seed % 8 != 6 else 1
    x = torch.randn(batch, ins * groups, height, width, generator=g).to(dtype)
    weight = torch.randn(shape, generator=g).to(dtype)
    mask = torch.rand(weight.shape, generator=g) < (0.02, 0.1, 0.5, 1.0, 0.0)[integer(0, 4)]
    bias = torch.randn(outs * groups, generator=g).to(dtype) if integer(0, 1) else None
    y = reference_entries.entries_conv2d(x.float(), weight.float(), mask, None, None, *conv)
    grad = torch.randn(y.shape, generator=g).to(dtype)
    weight.masked_fill_(~mask, torch.nan)  # a pruned weight does not multiply
    plans = find_entries(mask, groups)
    plan = plans.by_input if op == OPS[1] else plans.by_output
    arguments: tuple[Any, ...]
    if op == OPS[0]:
        arguments = (x, weight, mask, bias, plan, *conv)
        arrays = [x, weight, *([] if bias is None else [bias])]
    elif op == OPS[1]:
        arguments, arrays = (grad, weight, mask, plan, [height, width], *conv), [grad, weight]
    else:
        arguments, arrays = (grad, x, mask, plan, *conv), [grad, x]
    shapes = (*x.shape, *weight.shape, *stride, *padding, *dilation, groups)
    label = f"seed {seed}: {op} {dtype}, x, w, stride, padding, dilation, groups {shapes}"
    has_bias = op == OPS[0] and bias is not None
    return Case(op, dtype, seed, shapes, arguments, [plan, *arrays], has_bias, label)


def cases_of(op: str, dtype: torch.dtype, seeds: Iterable[int]) -> list[Case]:
    return [draw(op, dtype, seed) for seed in seeds]


def encode(cases: list[Case]) -> bytes:
    """Return the cases as entries_driver.cpp reads them."""
    return struct.pack("q", len(cases)) + b"".join(case.encode() for case in cases)


def close(got: Tensor, want: Tensor) -> bool:
    """Compare a result with the oracle's in float32."""
    eps = torch.finfo(got.dtype).eps
    # Sums of at most thousands of products of about one, in float32, rounded once.
    return torch.allclose(got.float(), want, rtol=2 * eps, atol=max(2e-5, 1e-3 * eps))


def mismatches(cases: list[Case], output: bytes) -> list[str]:
    """Compare a run's output with the oracle; return one line per case that differs."""
    wrong, position = [], 0
    for case in cases:
        want = case.oracle()
        size = want.numel() * case.dtype.itemsize
        chunk = bytearray(output[position : position + size])
        position += size
        if len(chunk) < size:
            return [*wrong, "the output ends too early"]
        if not close(torch.frombuffer(chunk, dtype=case.dtype).view(want.shape), want):
            wrong.append(case.label)
    assert position == len(output), "the output is longer than expected"
    return wrong
