"""Random convolutions for the emulated kernels of single weights, vectors and blocks, and the
oracle's answers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparselth.ops.gpu import column_vector, halo_blocks, unstructured
from sparselth.ops.reference import gpu

ENTRIES = (
    "unstructured_conv2d",
    "unstructured_conv2d_grad_input",
    "unstructured_conv2d_grad_weight",
)
VECTORS = ("column_vector_conv2d", "column_vector_conv2d_grad_input")
BLOCKS = (
    "halo_block_conv2d",
    "halo_block_conv2d_grad_input",
    "halo_block_conv2d_grad_weight",
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HALVES = DTYPES[1:]
OPS = (*ENTRIES, *VECTORS, *BLOCKS)
SEEDS = range(64)


def driver_of(op: str) -> str:
    """Return the program that runs an op on the host."""
    return f"{op.partition('_conv2d')[0]}_driver.cpp"


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
        if self.op in VECTORS:
            place = self._place_by_vectors()
        else:
            place = (ENTRIES if self.op in ENTRIES else BLOCKS).index(self.op)
        head = (place, DTYPES.index(self.dtype), self.seed, self.has_bias)
        plan, *arrays = self.arrays
        parts = [struct.pack("20q", *head, *self.shapes, plan.numel()), _raw(plan)]
        return b"".join(parts + [_raw(a) for a in arrays])

    def _place_by_vectors(self) -> int:
        length = self.arguments[4 if self.op == "column_vector_conv2d_grad_input" else 5]
        return 2 * VECTORS.index(self.op) + column_vector.LENGTHS.index(length)

    def oracle(self) -> Tensor:
        wide = [a.float() if _is_data(a) else a for a in self.arguments]
        return getattr(gpu, self.op)(*wide)


def _is_data(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _raw(x: Tensor) -> bytes:
    """Return the bytes in the order of memory."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes() if x.numel() else b""


def draw(op: str, dtype: torch.dtype, seed: int) -> Case:
    """Return the case of a seed: geometry, groups, sparsity, bias vary; NaN where nothing is kept,
    and infinities in the input of a third of the weight gradients.

    Every eighth has planes so large that a lane holds eight pixels, every eighth more columns than
    are in shared memory at a time, every eighth more rows than a block has, every eighth both.
    On tensor cores there are no groups, and half of the time whole segments of channels; eight
    cases have vectors of 16 weights, eight those of 8, and so on.
    """
    g = torch.Generator().manual_seed(seed)
    by_vectors, by_blocks = op in VECTORS, op in BLOCKS
    on_tensor_cores, segment = by_vectors or by_blocks, 4 if by_vectors else 8

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=g))

    while True:
        groups = 1 if on_tensor_cores else (1, 1, 1, 2, 3)[integer(0, 4)]
        outs, ins = integer(1, 5), integer(1, 5)
        if seed % 8 in (2, 5):
            ins = integer(30, 70)
        if seed % 8 in (4, 5):
            outs = integer(60, 70)
        if on_tensor_cores and integer(0, 1):
            outs, ins = -(-outs // segment) * segment, -(-ins // segment) * segment
        if by_blocks and seed % 16 == 4:
            outs = integer(130, 140)  # more than a thread block has
        if op == BLOCKS[2] and seed % 16 in (4, 12):
            ins = integer(130, 140)
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
        kernels = column_vector if by_vectors else halo_blocks if by_blocks else unstructured
        fits = halo_blocks.grad_weight_fits if op == BLOCKS[2] else kernels.all_passes_fit
        if there and fits(shape, (height, width), conv):
            break
    batch = integer(1, 5) if seed % 8 != 6 else 1
    batch += 8 * (by_vectors and seed % 8 == 1)
    layout = torch.channels_last if on_tensor_cores else torch.contiguous_format
    x = torch.randn(batch, ins * groups, height, width, generator=g).to(dtype)
    x = x.contiguous(memory_format=layout)
    weight = torch.randn(shape, generator=g).to(dtype)
    density = (0.02, 0.1, 0.5, 1.0, 0.0)[integer(0, 4)]
    mask = torch.rand(weight.shape, generator=g) < density
    if seed % 8 == 5:  # not every group has something in every stretch of columns
        rows = 32 if by_blocks else 16
        for first in range(0, len(mask), rows):
            pruned = 32 * integer(0, 1)
            mask[first : first + rows, pruned : pruned + 32] = False
    bias = torch.randn(outs * groups, generator=g).to(dtype) if integer(0, 1) else None
    y = gpu.unstructured_conv2d(x.float(), weight.float(), mask, None, None, *conv)
    grad = torch.randn(y.shape, generator=g).to(dtype).contiguous(memory_format=layout)
    weight.masked_fill_(~mask, torch.nan)  # a pruned weight does not multiply
    length = [column_vector.LENGTHS[seed // 8 % 2]] if by_vectors else []
    plans: Any
    if by_vectors:
        plans = column_vector.find_column_vectors(mask, *length)
    elif by_blocks:
        plans = halo_blocks.find_halo_blocks(mask)
    else:
        plans = unstructured.find_unstructured(mask, groups)
    plan = plans.by_input if op.endswith("grad_input") else plans.by_output
    if op == BLOCKS[2]:
        plan = plans.by_panel
    weights = [weight, mask] if on_tensor_cores else [weight]
    arguments: tuple[Any, ...]
    if op.endswith("grad_weight"):
        x.masked_fill_(torch.rand(x.shape, generator=g) < 0.004 * (seed % 3 == 0), torch.inf)
        arguments = (grad, x, mask, plan, *conv)
        arrays = [grad, x, *([mask] if on_tensor_cores else [])]
    elif op.endswith("grad_input"):
        arguments = (grad, weight, mask, plan, *length, [height, width], *conv)
        arrays = [grad, *weights]
    else:
        arguments = (x, weight, mask, bias, plan, *length, *conv)
        arrays = [x, *weights, *([] if bias is None else [bias])]
    shapes = (*x.shape, *weight.shape, *stride, *padding, *dilation, groups)
    label = f"seed {seed}: {op} {dtype}, x, w, stride, padding, dilation, groups {shapes}"
    label += f", vectors of {length}"
    has_bias = op.endswith("conv2d") and bias is not None
    return Case(op, dtype, seed, shapes, arguments, [plan, *arrays], has_bias, label)


def cases_of(op: str, dtype: torch.dtype, seeds: Iterable[int]) -> list[Case]:
    return [draw(op, dtype, seed) for seed in seeds]


def encode(cases: list[Case]) -> bytes:
    """Return the cases as the drivers read them."""
    return struct.pack("q", len(cases)) + b"".join(case.encode() for case in cases)


def close(got: Tensor, want: Tensor) -> bool:
    """Compare a result with the oracle's in float32."""
    eps = torch.finfo(got.dtype).eps
    # Sums of at most thousands of products of about one, in float32, rounded once.
    close = {"rtol": 2 * eps, "atol": max(2e-5, 1e-3 * eps), "equal_nan": True}
    return torch.allclose(got.float(), want, **close)


def mismatches(cases: list[Case], output: bytes) -> list[str]:
    """Compare a run's output with the oracle; return one line per case that differs."""
    wrong, position = [], 0
    for case in cases:
        want = case.oracle()
        if case.op in (*VECTORS, *BLOCKS) and not case.op.endswith("grad_weight"):
            want = want.permute(0, 2, 3, 1)  # as it lies in memory
        size = want.numel() * case.dtype.itemsize
        chunk = bytearray(output[position : position + size])
        position += size
        if len(chunk) < size:
            return [*wrong, "the output ends too early"]
        if not close(torch.frombuffer(chunk, dtype=case.dtype).view(want.shape), want):
            wrong.append(case.label)
    assert position == len(output), "the output is longer than expected"
    return wrong
