"""Random cases for the emulated kernels, and their binary form."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparselth.ops.patterns import ELEMENT, Blocks, KernelShapes, NOfM, Pattern, axes
from support.emulated.values import masks_of_overlap, values, with_other_nans

OPS = ("topk_mask", "admm_project_", "weight_overlap", "masked_sgd_", "masked_adamw_")
STEPS = OPS[3:]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
THREADS = 256
SEEDS = range(64)

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
