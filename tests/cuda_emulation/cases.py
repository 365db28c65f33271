"""Random cases for the emulated kernels, their binary form, and the oracle's answer to them."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sparselth.ops import reference

OPS = ("topk_mask", "admm_project_", "weight_overlap", "masked_sgd_")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
THREADS = 256


@dataclass
class Case:
    op: str
    dtype: torch.dtype
    pooled: bool
    ordered: bool
    chunk_size: int
    seed: int
    settings: tuple[float, ...]
    k: list[int]
    """Per tensor; pooled: the count over all, repeated."""
    offsets: list[int]
    """Elements between the start of the memory and the tensor, as in a view."""
    lists: list[list[Tensor]]
    """The op's tensor lists, in the order of its schema."""
    label: str = field(default="")


def draw(op: str, dtype: torch.dtype, seed: int) -> Case:
    """Return the case of a seed: list lengths, sizes, ties, edge values and layouts vary."""
    g = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=g))

    tile = THREADS * 16 // dtype.itemsize
    chunk = tile * integer(1, 2)
    many = seed % 8 == 7  # more tensors than one table launch takes
    lengths = [integer(0, 9) for _ in range(90)] if many else []
    while not lengths or (len(lengths) < 4 and integer(0, 2)):
        # Around the borders of packs, tiles and chunks, and a few chunks long.
        near = (0, 1, 7, tile - 1, tile, tile + 1, chunk + 3, 2 * chunk, 3 * chunk - 5)
        lengths.append(max(0, near[integer(0, len(near) - 1)] + integer(-1, 1)))
    pooled = op in ("topk_mask", "admm_project_") and integer(0, 2) == 0
    ordered = bool(integer(0, 1))
    last_kind = 6 if op != "masked_sgd_" and seed % 4 == 1 else 5
    lists = [[values(dtype, n, integer(0, last_kind), g) for n in lengths] for _ in range(4)]
    total = sum(lengths)
    k = [share(integer(0, 5), total if pooled else n, integer) for n in lengths]
    k = [k[0]] * len(lengths) if pooled else k
    momentum = (0.0, 0.9)[integer(0, 1)]
    settings = (0.1, momentum, 0.25 * integer(0, 1), 1e-2, float(momentum > 0 and integer(0, 1)))
    if op == "masked_sgd_":
        lists[3] = [torch.rand(n, generator=g) < 0.3 for n in lengths]
    wanted = {"topk_mask": 1, "admm_project_": 3, "weight_overlap": 2, "masked_sgd_": 4}[op]
    offsets = [integer(0, 3) * integer(0, 1) for _ in lengths]
    label = f"seed {seed}: lengths {lengths[:9]}, k {k[:9]}, pooled {pooled}, chunk {chunk}"
    return Case(
        op, dtype, pooled, ordered, chunk, seed, settings, k, offsets, lists[:wanted], label
    )


def values(dtype: torch.dtype, n: int, kind: int, g: torch.Generator) -> Tensor:
    """Return n values: smooth, full of ties, all equal, signed zeros, denormals, mixed, or with
    NaN and infinity.
    """
    x = torch.randn(n, generator=g, dtype=torch.float64)
    if kind == 1:
        x = torch.randint(-2, 3, (n,), generator=g).double()
    elif kind == 2:
        x = torch.full((n,), -1.5, dtype=torch.float64)
    elif kind == 3:
        x = torch.where(x > 0, 0.0, -0.0)
    elif kind == 4:
        x = x * torch.finfo(dtype).tiny / 8
    elif kind == 5:
        x = torch.where(torch.rand(n, generator=g) < 0.6, torch.zeros_like(x), x)
    elif kind == 6:
        odd = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=torch.float64)
        where = torch.rand(n, generator=g) < 0.02
        x = torch.where(where, odd[torch.randint(3, (n,), generator=g)], x)
    return x.to(dtype)


def share(kind: int, n: int, integer) -> int:
    """Return a count to keep of n: none, one, all but one, all, or something between."""
    return min(n, (0, 1, max(n - 1, 0), n, n // 10, integer(0, n))[kind])


def encode(case: Case) -> bytes:
    """Return the case as driver.cpp reads it."""
    ops, dtypes = OPS.index(case.op), DTYPES.index(case.dtype)
    tensors = len(case.lists[0])
    parts = [
        struct.pack(
            "7q", ops, dtypes, case.pooled, case.ordered, case.chunk_size, tensors, case.seed
        )
    ]
    parts.append(struct.pack("5d", *case.settings))
    for i in range(tensors):
        n = case.lists[0][i].numel()
        parts.append(struct.pack("3q", n, case.k[i], case.offsets[i]))
        parts += [raw(tensors_of[i]) for tensors_of in case.lists]
    return b"".join(parts)


def raw(x: Tensor) -> bytes:
    return x.contiguous().view(torch.uint8).numpy().tobytes() if x.numel() else b""


def run(program: Path, cases: list[Case]) -> tuple[bytes, str]:
    """Run the cases in one process; return its output and, when it failed, what it said."""
    request = struct.pack("q", len(cases)) + b"".join(map(encode, cases))
    env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": ""}
    done = subprocess.run([str(program)], input=request, capture_output=True, env=env, timeout=120)
    complaint = done.stderr.decode(errors="replace") if done.returncode else ""
    return done.stdout, complaint


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
    """Return the bytes: equality then tells -0.0 from 0.0."""
    return x.contiguous().view(torch.uint8)


def close(got: Tensor, expected: Tensor) -> bool:
    # The oracle rounds after each operation and the kernel once: a few units in the last place.
    eps = torch.finfo(expected.dtype).eps
    a, b = got.double(), expected.double()
    return torch.allclose(a, b, rtol=8 * eps, atol=8 * eps, equal_nan=True)


def oracle(case: Case) -> list[tuple[str, Tensor, bool]]:
    """Return what driver.cpp must write: (name, tensor, whether bit for bit), in its order."""
    lists = [[x.clone() for x in tensors] for tensors in case.lists]
    k = case.k[:1] if case.pooled else case.k
    if case.op == "topk_mask":
        masks, nonfinite = reference.topk_mask(*lists, k, case.pooled, [])
        return [*(("mask", mask, True) for mask in masks), ("nonfinite", nonfinite, True)]
    if case.op == "weight_overlap":
        counts = reference.weight_overlap(*lists, [], k).flatten()
        # The counts of the second half of the segments are unused and stay zero.
        return [("counts", torch.cat([counts, torch.zeros_like(counts)]), True)]
    if case.op == "admm_project_":
        w, u, z = lists
        residuals = reference.admm_project_(w, z, u, k, case.pooled, [], case.ordered)
        pairs = [(("u", a, True), ("z", b, True)) for a, b in zip(u, z, strict=True)]
        return [item for pair in pairs for item in pair] + [("residuals", residuals, False)]
    *settings, nesterov = case.settings
    w, grads, momenta, masks = lists
    reference.masked_sgd_(w, grads, momenta, masks, [], [], *settings, bool(nesterov), 0.0)
    pairs = [
        (("weight", a, False), ("momentum", b, False)) for a, b in zip(w, momenta, strict=True)
    ]
    return [item for pair in pairs for item in pair]
