"""The oracle's selection: which entries or groups are the largest, in plain PyTorch.

`contract/` says what a pattern is and in which order squares are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..patterns import KIND_BLOCKS, KIND_N_OF_M, axes

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def keys(values: Tensor) -> Tensor:
    """Return the magnitudes' bits as integers, which order as the magnitudes do."""
    bits = values.contiguous().view(_BITS[values.element_size()])
    return bits & torch.iinfo(bits.dtype).max


def largest(score: Tensor, k: int, inside: Tensor | None = None) -> Tensor:
    """Return the flat mask of the k largest magnitudes, ties to the lowest index.

    inside: a bool mask; what it leaves out is below everything.
    """
    ranked = keys(score).flatten()
    if inside is not None:
        ranked = torch.where(inside.flatten(), ranked, -1)
    order = torch.sort(ranked, descending=True, stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[order[:k]] = True
    return mask


def select_masks(
    scores: Sequence[Tensor], k: Sequence[int], global_: bool, pattern: Sequence[int]
) -> list[Tensor]:
    """Return a mask per tensor: the k largest entries or groups of each, or of all together."""
    if not pattern:
        return [m.view(s.shape) for m, s in zip(_kept(scores, k, global_), scores, strict=True)]
    cubes = [score.reshape(axes(score.shape)) for score in scores]
    kind, *settings = pattern
    if kind == KIND_BLOCKS:
        masks = _blocks(cubes, k, global_, settings)
    elif kind == KIND_N_OF_M:
        masks = [_n_of_m(cube, *settings) for cube in cubes]
    else:
        masks = _kernel_shapes(cubes, k, global_, settings[0], settings[1:])
    return [mask.reshape(s.shape).clone() for mask, s in zip(masks, scores, strict=True)]


def _kept(scores: Sequence[Tensor], k: Sequence[int], global_: bool) -> list[Tensor]:
    """Return the flat masks of the k largest of each tensor, or of all together."""
    if not global_:
        return [largest(s, n) for s, n in zip(scores, k, strict=True)]
    flat = largest(torch.cat([s.flatten() for s in scores]), k[0])
    return [part.clone() for part in flat.split([s.numel() for s in scores])]


def _in_turn(parts: Iterable[Tensor]) -> Tensor:
    """Add tensors one after another: the order is part of the contract."""
    total, *rest = parts
    for part in rest:
        total = total + part
    return total


def _one_nan(score: Tensor) -> Tensor:
    return torch.where(score.isnan(), torch.nan, score)


def _split(cube: Tensor, box: Sequence[int]) -> Tensor:
    """Return the cube, filled up with zeros, as (blocks, out, blocks, in, blocks, taps)."""
    sides = [side or n for side, n in zip(box, cube.shape, strict=True)]
    pad = [end for n, side in zip(cube.shape, sides, strict=True) for end in (-n % side, 0)]
    whole = F.pad(cube, pad[::-1])
    return whole.view(
        [part for n, side in zip(whole.shape, sides, strict=True) for part in (n // side, side)]
    )


def _blocks(cubes, k, global_, box) -> list[Tensor]:
    scores = [block_scores(cube, box) if cube.numel() else cube.double() for cube in cubes]
    masks = []
    for flat, score, cube in zip(_kept(scores, k, global_), scores, cubes, strict=True):
        mask = flat.view(score.shape)
        for axis, (side, n) in enumerate(zip(box, cube.shape, strict=True)):
            mask = mask.repeat_interleave(side or max(n, 1), axis).narrow(axis, 0, n)
        masks.append(mask)
    return masks


def block_scores(cube: Tensor, box: Sequence[int]) -> Tensor:
    """Return the float64 sums of squares of a weight's boxes: (out, in, tap) blocks."""
    parts = _split(cube.double().square(), box)
    by_column = _in_turn(parts.unbind(1))  # (out blocks, in blocks, in, tap blocks, taps)
    columns = F.pad(by_column, (0, 0, 0, 0, 0, -by_column.shape[2] % 32))
    partial = _in_turn(columns.split(32, 2))
    while partial.shape[2] > 1:
        first, second = partial.chunk(2, 2)
        partial = first + second
    return _one_nan(_in_turn(partial.squeeze(2).unbind(-1)))


def _n_of_m(cube: Tensor, n: int, m: int) -> Tensor:
    """Return the mask of the n largest of every m along the inputs."""
    out, inputs, taps = cube.shape
    whole = F.pad(keys(cube), (0, 0, 0, -inputs % m), value=-1)
    groups = whole.view(out, whole.shape[1] // m, m, taps)
    order = torch.sort(groups, dim=2, descending=True, stable=True).indices
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order[:, :, :n], True)
    return mask.view(whole.shape)[:, :inputs]


def _kernel_shapes(cubes, k, global_, taps, shapes) -> list[Tensor]:
    best = [best_shapes(cube, shapes if cube.shape[2] == taps else None) for cube in cubes]
    kernels = _kept([score for score, _ in best], k, global_)
    return [
        kept.view(*inside.shape[:2], 1) & inside
        for kept, (_, inside) in zip(kernels, best, strict=True)
    ]


def best_shapes(cube: Tensor, shapes: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Return each kernel's largest sum of squares in a shape, and that shape as (out, in, taps).

    Without shapes, the whole kernel's.
    """
    whole = torch.ones_like(cube, dtype=torch.bool)
    if cube.numel() == 0:
        return cube.double().flatten(), whole
    squares = cube.double().square().unbind(2)
    if shapes is None:
        return _one_nan(_in_turn(squares)), whole
    scores = torch.stack(
        [
            _one_nan(_in_turn(square for t, square in enumerate(squares) if shape >> t & 1))
            for shape in shapes
        ]
    )
    first = keys(scores).argmax(0)  # of equals the first
    taps = torch.arange(cube.shape[2], device=cube.device)
    inside = torch.tensor(shapes, device=cube.device)[first][..., None] >> taps & 1
    return scores.gather(0, first[None])[0], inside.bool()
