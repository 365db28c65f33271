"""Random cases for the emulated kernels, their binary form, and the oracle's answer to them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparselth.ops import reference
from sparselth.ops.patterns import ELEMENT, Blocks, KernelShapes, NOfM, Pattern, axes

OPS = ("topk_mask", "admm_project_", "weight_overlap", "masked_sgd_", "masked_adamw_")
STEPS = OPS[3:]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
THREADS = 256

WEIGHTS = (
    *((0,), (7,), (), (5, 0, 3, 3), (3, 5), (4, 3, 3, 3), (17, 40, 3, 3), (64, 33, 1, 1)),
    *((2, 3, 5, 5), (3, 70, 2), (70, 67), (1, 5000), (1500, 2), (300, 9), (12, 66, 3, 3)),
    *((2, 33, 70), (2, 5, 500)),  # more partial sums than fit at a time
)
WEIGHTS_3X3 = ((4, 3, 3, 3), (17, 40, 3, 3), (12, 66, 3, 3))
SHAPES_OF_4 = [shape for shape in range(1 << 9) if shape.bit_count() == 4]


@dataclass
class Case:
    op: str
    dtype: torch.dtype
    global_: bool
    allow_nonfinite: bool
    chunk_size: int
    seed: int
    settings: tuple[float, ...]
    """masked_sgd_: lr, momentum, dampening, weight_decay, nesterov, rho; masked_adamw_: lr, beta1,
    beta2, eps, weight_decay, rho, step, and whether each tensor has a step of its own, one more
    than the tensor before it."""
    pattern: list[int]
    k: list[int]
    """Per tensor; global_: the count over all, repeated; N:M: zeros, which nobody reads."""
    offsets: list[int]
    """Elements between the start of the memory and the tensor, as in a view."""
    lists: list[list[Tensor]]
    """topk_mask: scores; admm_project_: w, u, z; weight_overlap: a, b, masks; masked_sgd_: w,
    grads, momenta, masks, z, u; masked_adamw_: the same with two lists of moments. Those that may
    be empty are where the op is called without them.
    """
    label: str = field(default="")

    @property
    def given_k(self) -> list[int]:
        """k as the op takes it."""
        if self.pattern[:1] == [1]:
            return []
        return self.k[:1] if self.global_ else self.k


def draw(op: str, dtype: torch.dtype, seed: int) -> Case:
    """Return the case of a seed: pattern, list length, sizes, ties, edge values, layouts vary."""
    g = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=g))

    tile = THREADS * 16 // dtype.itemsize
    chunk = tile * integer(1, 2)
    selects = op in ("topk_mask", "admm_project_")
    pattern = draw_pattern(integer) if selects and seed % 4 else ELEMENT
    many = seed % 16 in (7, 8)  # more tensors than one table launch takes
    shapes: list[tuple[int, ...]] = [(integer(0, 9),) for _ in range(70)] if many else []
    while not shapes or (len(shapes) < 4 and integer(0, 2)):
        if pattern is not ELEMENT:
            some = WEIGHTS_3X3 if isinstance(pattern, KernelShapes) and not shapes else WEIGHTS
            shapes.append(some[integer(0, len(some) - 1)])
            continue
        # Around the borders of packs, tiles and chunks, and a few chunks long.
        near = (0, 1, 7, tile - 1, tile, tile + 1, chunk + 3, 2 * chunk, 3 * chunk - 5)
        shapes.append((max(0, near[integer(0, len(near) - 1)] + integer(-1, 1)),))
    global_ = selects and integer(0, 2) == 0
    allow_nonfinite = bool(integer(0, 1))
    kinds = [0, 1, 2, 3, 4, 5]
    kinds += [6, 6] * (op not in STEPS and integer(0, 2) == 0)
    kinds += [7] * 6 * (pattern is not ELEMENT)
    lists = [[values(dtype, s, kinds[integer(0, len(kinds) - 1)], g) for s in shapes]]
    while len(lists) < {"topk_mask": 1, "weight_overlap": 2, "masked_adamw_": 4}.get(op, 3):
        lists.append([values(dtype, s, kinds[integer(0, len(kinds) - 1)], g) for s in shapes])
    if op == "topk_mask":
        lists = [[with_other_nans(score, g) for score in lists[0]]]
    if op == "admm_project_" and integer(0, 1):
        lists[1] = [torch.zeros_like(u) for u in lists[1]]  # ties of W stay ties of W + U
    if op == "weight_overlap":
        lists.append(masks_of_overlap(*lists, integer, g) if integer(0, 1) else [])
    if op == "masked_adamw_":
        lists[3] = [square.abs() for square in lists[3]]
    if op in STEPS:
        some = [torch.rand(s, generator=g) < 0.3 for s in shapes]
        lists.append(some if integer(0, 2) else [])
        penalty = bool(integer(0, 1))
        lists += [[values(dtype, s, 0, g) for s in shapes] if penalty else [] for _ in range(2)]
    groups = [pattern.groups(s) if not isinstance(pattern, NOfM) else 0 for s in shapes]
    if op == "weight_overlap" and lists[2]:
        groups = [int(mask.sum()) for mask in lists[2]]
    total = sum(groups)
    k = [share(integer(0, 5), total if global_ else n, integer) for n in groups]
    k = [k[0]] * len(shapes) if global_ else k
    momentum = (0.0, 0.9)[integer(0, 1)]
    nesterov = float(momentum > 0 and integer(0, 1))
    settings = (0.1, momentum, 0.25 * integer(0, 1), 1e-2, nesterov, 0.05)
    if op == "masked_adamw_":
        step, own_steps = (1, 2, 100)[integer(0, 2)], integer(0, 1)
        settings = (0.1, momentum, 0.99, 1e-8, 1e-2, 0.05, step, own_steps)
    offsets = [integer(0, 3) * integer(0, 1) for _ in shapes]
    label = (
        f"seed {seed}: {pattern}, shapes {shapes[:9]}, k {k[:9]}, global_ {global_}, chunk {chunk}"
    )
    code = pattern.encode()
    return Case(
        op, dtype, global_, allow_nonfinite, chunk, seed, settings, code, k, offsets, lists, label
    )


def cases_of(op: str, dtype: torch.dtype, seeds: Iterable[int]) -> list[Case]:
    """Return the cases of some seeds, and for sums those that the order of additions decides."""
    drawn = [draw(op, dtype, seed) for seed in seeds]
    return drawn + (order_cases(dtype) if op == "topk_mask" else [])


def order_cases(dtype: torch.dtype) -> list[Case]:
    """Return cases in which it decides how squares are rounded and added, and which NaN is left.

    All groups hold nearly the same values, so their sums differ by roundings alone.
    """
    g = torch.Generator().manual_seed(0)
    common, rare = (0.7, 1.1) if dtype == torch.float64 else (2.0**-13, 2.0**14)
    found = []

    def add(scores: Tensor, boxes: tuple[int, int, int], shares: Iterable[float], odd=0) -> None:
        pattern = Blocks(*boxes)
        groups = pattern.groups(scores.shape)
        for k in {int(groups * share) | odd for share in shares} - {0}:
            fixed = ("topk_mask", dtype, False, False, 2048, k, (0.0,) * 6)
            label = f"{pattern}, shape {tuple(scores.shape)}, k {k}"
            found.append(Case(*fixed, pattern.encode(), [k], [0], [[scores]], label))

    for shape in ((48, 70, 3), (12, 40, 10, 10)):  # of the second the taps are sliced
        is_rare = torch.rand(shape, generator=g) < 0.02
        smooth = torch.full(shape, common, dtype=dtype).masked_fill(is_rare, rare)
        nans = with_other_nans(smooth.masked_fill(is_rare, torch.nan), g)
        for boxes in ((16, 1, 1), (1, 16, 1), (32, 40, 1), (1, 0, 0), (0, 1, 0), (1, 1, 0)):
            add(smooth, boxes, (0.4, 0.7))
            add(nans, boxes, (0.25,))
    # (a, b) and (b, a) tie where both squares are rounded, but not if the second one is not. An odd
    # k cuts between two that tie.
    pairs = torch.rand(2, 40, generator=g, dtype=torch.float64).to(dtype)
    add(torch.cat([pairs, pairs.flip(0)], 1), (2, 1, 1), torch.linspace(0, 0.9, 19).tolist(), odd=1)
    return found


def draw_pattern(integer) -> Pattern:
    """Return boxes, half of the time and often wide, or N:M, or a dictionary of kernel shapes."""
    kind = integer(0, 3)
    if kind == 2:
        n = integer(1, 4)
        return NOfM(n, n + integer(1, 9))
    if kind == 3:
        first, step = integer(0, 20), integer(1, 6)
        return KernelShapes(tuple(SHAPES_OF_4[first::step][: integer(1, 16)]))
    extents = (0, 1, 2, 3, 8, 16, 40, 0, 40)
    return Blocks(extents[integer(0, 6)], extents[integer(0, 8)], max(0, integer(-1, 2)))


def masks_of_overlap(a: list[Tensor], b: list[Tensor], integer, g: torch.Generator) -> list[Tensor]:
    """Return a mask per pair: some, all or none of its entries; here and there just the finite."""
    masks = []
    for x, y in zip(a, b, strict=True):
        mask = torch.rand(x.shape, generator=g) < (0.6, 1.0, 0.0)[max(0, integer(-3, 2))]
        masks.append(mask & x.isfinite() & y.isfinite() if integer(0, 1) else mask)
    return masks


def values(dtype: torch.dtype, shape: tuple[int, ...], kind: int, g: torch.Generator) -> Tensor:
    """Return values: smooth, full of ties, all equal, signed zeros, denormals, mixed, with NaN and
    infinity, or such that a sum of their squares depends on the order of addition.
    """
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    if kind == 1:
        x = torch.randint(-2, 3, shape, generator=g).double()
    elif kind == 2:
        x = torch.full(shape, -1.5, dtype=torch.float64)
    elif kind == 3:
        x = torch.where(x > 0, 0.0, -0.0)
    elif kind == 4:
        x = x * torch.finfo(dtype).tiny / 8
    elif kind == 5:
        x = torch.where(torch.rand(shape, generator=g) < 0.6, torch.zeros_like(x), x)
    elif kind == 6:
        odd = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=torch.float64)
        where = torch.rand(shape, generator=g) < 0.02
        x = torch.where(where, odd[torch.randint(3, shape, generator=g)], x)
    elif kind == 7 and dtype == torch.float64:
        x = torch.where(x > 1.5, 1.1, 0.7)  # squares that must be rounded before they are added
    elif kind == 7:
        x = torch.where(x > 0.5, 2.0**14, 2.0**-13 * (1 + x.abs().round()))
    return x.to(dtype)


def with_other_nans(x: Tensor, g: torch.Generator) -> Tensor:
    """Return x with another bit pattern in some of its NaN, which is larger than the usual one."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    other = x.isnan() & (torch.rand(x.shape, generator=g) < 0.5)
    return (x.view(whole) | other.to(whole)).view(x.dtype)


def share(kind: int, n: int, integer) -> int:
    """Return a count to keep of n: none, one, all but one, all, or something between."""
    return min(n, (0, 1, max(n - 1, 0), n, n // 10, integer(0, n))[kind])


def encode(cases: list[Case]) -> bytes:
    """Return the cases as driver.cpp reads them."""
    return struct.pack("q", len(cases)) + b"".join(map(_encode, cases))


def _encode(case: Case) -> bytes:
    ops, dtypes = OPS.index(case.op), DTYPES.index(case.dtype)
    present = sum(1 << i for i, tensors in enumerate(case.lists) if tensors)
    head = (ops, dtypes, case.global_, case.allow_nonfinite, case.chunk_size, case.seed, present)
    parts = [
        struct.pack("7q", *head),
        struct.pack("8d", *case.settings, *[0.0] * (8 - len(case.settings))),
        struct.pack(f"{1 + len(case.pattern)}q", len(case.pattern), *case.pattern),
        struct.pack("q", len(case.lists[0])),
    ]
    for i, like in enumerate(case.lists[0]):
        parts.append(struct.pack("5q", *axes(like.shape), case.k[i], case.offsets[i]))
        parts += [raw(tensors[i]) for tensors in case.lists if tensors]
    return b"".join(parts)


def raw(x: Tensor) -> bytes:
    return x.flatten().view(torch.uint8).numpy().tobytes() if x.numel() else b""


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
