"""Patterns: which weights are pruned together, as one group.

A weight of shape (C_out, C_in / groups, *kernel) is seen as (out, in, taps), a linear weight as
(out, in, 1). Boxes of those three axes are pruned by the sum of their squares, which makes keeping
the k largest the Euclidean projection onto at most k groups. N:M and kernel shapes choose inside
small groups of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ..errors import SparselthError, unknown_name

Shape = Sequence[int]

# The first number of an encoded pattern, which says what the others are; `contract/` has the list.
# As in csrc/common/pattern.h and kernels/patterns.py. Single entries are encoded as [].
KIND_BLOCKS, KIND_N_OF_M, KIND_KERNEL_SHAPES = 0, 1, 2


def axes(shape: Shape) -> tuple[int, int, int]:
    """Return a weight's (out, in, taps)."""
    return (shape[0] if shape else 1, shape[1] if len(shape) > 1 else 1, prod(shape[2:]))


@dataclass(frozen=True)
class Blocks:
    """Boxes of out x in x taps, numbered row by row; 0 means the whole axis.

    Blocks at the far edges are smaller where the sizes do not divide. A sparsity is a share of
    groups.

    Raises SparselthError on a negative extent.
    """

    out: int = 1
    inputs: int = 1
    taps: int = 1

    def __post_init__(self) -> None:
        if min(self.out, self.inputs, self.taps) < 0:
            raise SparselthError(f"a block's extents are >= 0, got {self}")

    def groups(self, shape: Shape) -> int:
        """Return how many groups a weight of this shape has."""
        sides = tuple(shape)
        # Sizes that torch.compile traces are no keys of a cache.
        count = _boxes if all(type(n) is int for n in sides) else _boxes.__wrapped__
        return count(sides, self.out, self.inputs, self.taps)

    def dropped(self, shapes: Sequence[Shape], sparsity: float) -> float:
        """Return how many groups of these weights a sparsity drops, before rounding."""
        return sum(map(self.groups, shapes)) * sparsity

    def encode(self) -> list[int]:
        """Return the pattern as the ops take it."""
        box = [self.out, self.inputs, self.taps]
        return [] if box == [1, 1, 1] else [KIND_BLOCKS, *box]


@lru_cache(maxsize=4096)  # asked in every step of an optimizer, for every layer
def _boxes(shape: tuple[int, ...], *extents: int) -> int:
    if prod(shape) == 0:
        return 0
    return prod(-(-n // (extent or n)) for n, extent in zip(axes(shape), extents, strict=True))


@dataclass(frozen=True)
class NOfM:
    """The n largest magnitudes of every m neighbors along the input axis, for each tap.

    Fixes the sparsity. Fewer than m neighbors at the end keep n as well.

    Raises SparselthError unless 0 < n < m <= 32.

    Reference: Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m <= 32:
            raise SparselthError(f"N:M takes 0 < N < M <= 32, got {self.n}:{self.m}")

    @property
    def sparsity(self) -> float:
        """The share of weights pruned where m divides the inputs."""
        return 1 - self.n / self.m

    def encode(self) -> list[int]:
        """Return the pattern as the ops take it."""
        return [KIND_N_OF_M, self.n, self.m]


@dataclass(frozen=True)
class KernelShapes:
    """Every kernel keeps the weights of one shape of a small dictionary, or none at all.

    shapes: bit t of a shape is set where it keeps tap t; 1 to 16 of them, all of one size.
    taps: of the kernels they fit, 9 for 3x3, at most 31. Kernels of any other size are kept whole
    or not at all.
    k counts kernels; a sparsity is a share of weights and drops whole kernels where the shapes
    alone do not reach it.

    Raises SparselthError when the dictionary does not fit this.

    Reference: Ma et al. 2020, "PCONV", arXiv:1909.05073; Niu et al. 2020, "PatDNN",
    arXiv:2001.00138.
    """

    shapes: tuple[int, ...]
    taps: int = 9

    def __post_init__(self) -> None:
        sizes = {shape.bit_count() for shape in self.shapes}
        if not (
            1 <= len(self.shapes) <= 16
            and 1 <= self.taps <= 31
            and all(0 < shape < 1 << self.taps for shape in self.shapes)
            and len(set(self.shapes)) == len(self.shapes)
            and len(sizes) == 1
        ):
            raise SparselthError(
                "a dictionary has 1 to 16 different shapes, sets of as many of the kernel's taps "
                f"each; got {list(map(bin, self.shapes))} for {self.taps} taps"
            )

    def entries(self, shape: Shape) -> int:
        """Return how many weights a kernel of this weight keeps."""
        taps = axes(shape)[2]
        return self.shapes[0].bit_count() if taps == self.taps else taps

    def groups(self, shape: Shape) -> int:
        """Return how many kernels a weight of this shape has."""
        out, inputs, taps = axes(shape)
        return out * inputs if taps else 0

    def dropped(self, shapes: Sequence[Shape], sparsity: float) -> float:
        """Return how many kernels of these weights a sparsity drops, before rounding.

        Raises SparselthError when the shapes alone prune more than that.
        """
        kernels = sum(map(self.groups, shapes))
        kept = sum((1 - sparsity) * prod(s) / self.entries(s) for s in shapes if prod(s))
        if kept > kernels + 0.5:
            alone = 1 - sum(self.groups(s) * self.entries(s) for s in shapes) / sum(
                map(prod, shapes)
            )
            raise SparselthError(
                f"these kernel shapes prune {alone:.1%} of the weights by themselves, more than "
                f"the sparsity {sparsity}; ask for more sparsity, or leave it out"
            )
        return kernels - kept

    def encode(self) -> list[int]:
        """Return the pattern as the ops take it."""
        return [KIND_KERNEL_SHAPES, self.taps, *self.shapes]


Pattern = Blocks | NOfM | KernelShapes

ELEMENT = Blocks()
NAMED: dict[str, Pattern] = {
    "element": ELEMENT,
    "filter": Blocks(1, 0, 0),
    "channel": Blocks(0, 1, 0),
    "kernel": Blocks(1, 1, 0),
    "column": Blocks(0, 1, 1),
}


def find_pattern(pattern: str | Pattern, also: Sequence[str] = ()) -> Pattern:
    """Return a pattern by its name; one that is a pattern already as it is.

    Names: "element", "filter" (all weights of an output), "channel" (all of an input), "kernel"
    (all taps of one output and input), "column" (one tap of an input, for all outputs),
    "16x1" or "32x32" (blocks of outputs x inputs, for each tap), "2:4" (N:M along the inputs).

    Raises SparselthError for an unknown name, listing the known ones and those in `also`.
    """
    if isinstance(pattern, (Blocks, NOfM, KernelShapes)):
        return pattern
    if not isinstance(pattern, str):
        raise SparselthError(
            f"a pattern is a name or one of sparselth.ops.patterns, got {type(pattern).__name__}"
        )
    if pattern in NAMED:
        return NAMED[pattern]
    if parts := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", pattern):
        return Blocks(int(parts[1]), int(parts[2]), 1)
    if parts := re.fullmatch(r"(\d+):(\d+)", pattern):
        return NOfM(int(parts[1]), int(parts[2]))
    raise unknown_name("pattern", pattern, (*NAMED, *also, "RxC", "N:M"))


def classify(mask: Tensor) -> str:
    """Name the shape of what `mask` keeps: "dense", "filter", "channel" or "element".

    mask: (C_out, C_in, ...), bool. "filter" keeps or prunes whole outputs, "channel" whole inputs.
    """
    if mask.all():
        return "dense"
    if mask.dim() >= 2 and mask.numel():
        for name, axis in (("filter", 0), ("channel", 1)):
            slices = mask.transpose(0, axis).flatten(1)
            if torch.equal(slices.any(1), slices.all(1)):
                return name
    return "element"
