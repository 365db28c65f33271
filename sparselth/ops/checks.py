"""Checks at the Python boundary: what was got, what was expected, what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter

import torch
from torch import Tensor

from ..checks import check_mapping, check_name, check_names, kind
from ..errors import SparselthError
from .geometry import as_int
from .patterns import ELEMENT, Blocks, KernelShapes, NOfM, Pattern, Shape

ALLOCATIONS = ("uniform", "global", "given")

# What to do about NaN and Inf: refuse them, or rank them above all else.
NONFINITE = ("error", "order")


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_floating(name: str, tensor: Tensor) -> None:
    """Require a dtype that the ops compute in."""
    if not isinstance(tensor, Tensor):
        raise SparselthError(f"{name} must be a torch tensor, got {kind(tensor)}")
    if tensor.dtype not in FLOATS:
        raise SparselthError(
            f"{name} is {tensor.dtype}; the ops take float16, bfloat16, float32 and float64, "
            "convert it with .to()"
        )


def check_aligned(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require the same dtype and device."""
    if tensor.device != other.device:
        raise SparselthError(
            f"{name} is on {tensor.device}, {other_name} on {other.device}; move one with .to()"
        )
    if tensor.dtype != other.dtype:
        raise SparselthError(
            f"{name} is {tensor.dtype}, {other_name} {other.dtype}; convert one with .to()"
        )


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require the same shape, dtype and device."""
    if tensor.shape != other.shape:
        raise SparselthError(
            f"{name} has shape {tuple(tensor.shape)}, {other_name} {tuple(other.shape)}"
        )
    check_aligned(name, tensor, other_name, other)


def check_mask(mask: Tensor, weight: Tensor, name: str = "mask") -> None:
    """Require a bool mask with the shape and device of its weight."""
    if not isinstance(mask, Tensor):
        raise SparselthError(
            f"{name} must be a torch bool tensor, got {kind(mask)}; pass torch.as_tensor(mask)"
        )
    if mask.dtype != torch.bool:
        raise SparselthError(f"{name} must be bool, got {mask.dtype}; pass mask.bool()")
    if mask.layout is not torch.strided:
        raise SparselthError(f"{name} is {mask.layout}; pass mask.to_dense()")
    if mask.shape != weight.shape:
        raise SparselthError(
            f"{name} has shape {tuple(mask.shape)}, its weight {tuple(weight.shape)}"
        )
    if mask.device != weight.device:
        raise SparselthError(
            f"{name} is on {mask.device}, its weight on {weight.device}; "
            f"pass mask.to({str(weight.device)!r})"
        )


# What masks are, for errors.
MASKS = "parameter names to bool tensors, as find_masks returns it"


def check_tensors(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Require a mapping of names to tensors."""
    check_mapping(
        name, tensors, "parameter names to tensors, such as dict(model.named_parameters())"
    )
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise SparselthError(f"{name}[{key!r}] must be a torch tensor, got {kind(tensor)}")


def tensor_list(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return a list of tensors given as any collection of them."""
    if isinstance(tensors, (str, bytes, Mapping)) or not isinstance(tensors, Iterable):
        raise SparselthError(f"{name} must be a list of tensors, got {kind(tensors)}")
    listed = list(tensors)
    for i, tensor in enumerate(listed):
        if not isinstance(tensor, Tensor):
            raise SparselthError(f"{name}[{i}] must be a torch tensor, got {kind(tensor)}")
    return listed


def check_plan(plan: Tensor | None, mask: Tensor) -> None:
    """Require a plan as `plan.conv_plan` makes it for a mask."""
    if plan is not None and isinstance(mask, Tensor) and mask.is_cuda:
        raise SparselthError("a GPU's kernels are found by the mask, got a plan too; leave it out")
    if plan is not None and not (isinstance(plan, Tensor) and plan.dtype == torch.int32):
        got = plan.dtype if isinstance(plan, Tensor) else kind(plan)
        raise SparselthError(
            f"plan must be int32, as sparselth.ops.conv_plan returns it, or None; got {got}"
        )


def check_same_length(**lists: Sequence[Tensor]) -> None:
    """Require lists of one length."""
    lengths = {name: len(tensors) for name, tensors in lists.items()}
    if len(set(lengths.values())) > 1:
        raise SparselthError(f"lists differ in length: {lengths}")


def check_lists(**lists: Sequence[Tensor]) -> None:
    """Require lists of one length, tensors at the same place having one shape, dtype and device."""
    check_same_length(**lists)
    (first_name, first), *others = lists.items()
    kinds = _kinds(first)
    for name, tensors in others:
        if _kinds(tensors) == kinds:
            continue
        for i, (tensor, like) in enumerate(zip(tensors, first, strict=True)):
            check_alike(f"{name}[{i}]", tensor, f"{first_name}[{i}]", like)


def _kinds(tensors: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype, torch.device]]:
    return list(map(attrgetter("shape", "dtype", "device"), tensors))


def named(name: str, count: int, names: Sequence[str] | None) -> Sequence[str]:
    """Return what errors call the tensors of a list: `names`, or name[0], name[1], ..."""
    if names is None:
        return [f"{name}[{i}]" for i in range(count)]
    names = check_names("names", names)
    if len(names) != count:
        raise SparselthError(f"names has {len(names)} entries for {count} tensors")
    return names


def nonfinite_error(label: str) -> SparselthError:
    """Return the error for a tensor with NaN or Inf."""
    return SparselthError(
        f"{label} holds NaN or Inf and cannot be ranked; training diverged before this, "
        "lower the learning rate or restore an earlier checkpoint"
    )


def check_finite(labels: Sequence[str], tensors: Sequence[Tensor]) -> None:
    """Refuse NaN and Inf, naming the tensor that has them. One pass over each tensor."""
    for label, tensor in zip(labels, tensors, strict=True):
        if not bool(torch.isfinite(tensor).all()):
            raise nonfinite_error(label)


def check_sparsity(sparsity: float) -> float:
    """Require a share of pruned weights in [0, 1)."""
    number = not isinstance(sparsity, (str, bytes, bool))
    try:
        number = number and math.isfinite(float(sparsity))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = False
    if not number or not 0 <= float(sparsity) < 1:
        hint = "" if number else "; pass a number"
        if number and 1 < float(sparsity) < 100:
            hint = f"; {sparsity} % is {float(sparsity) / 100:g}"
        raise SparselthError(
            f"sparsity is the share of weights to prune, in [0, 1); got {sparsity!r}{hint}"
        )
    return float(sparsity)


def check_list(tensors: Sequence[Tensor]) -> None:
    """Require one dtype, which the ops compute in, and one device."""
    for tensor in tensors[:1]:
        check_floating("a tensor of the list", tensor)
    if len(set(map(attrgetter("dtype", "device"), tensors))) > 1:
        kinds = sorted({f"{t.dtype} on {t.device}" for t in tensors})
        raise SparselthError(f"a list needs tensors of one dtype and device, got {kinds}")


def kept_counts(
    tensors: Sequence[Tensor],
    *,
    sparsity: float | None = None,
    k: int | Sequence[int] | None = None,
    allocation: str = "uniform",
    pattern: Pattern = ELEMENT,
) -> tuple[list[int], bool]:
    """Turn a sparsity or explicit counts into the ops' (k, global_) arguments.

    A sparsity rounds the number of pruned groups. Patterns that fix the sparsity need neither.
    """
    check_name("allocation", allocation, ALLOCATIONS)
    check_list(tensors)
    global_ = allocation == "global"
    if isinstance(pattern, NOfM):
        if k is not None or sparsity not in (None, pattern.sparsity):
            raise SparselthError(
                f"{pattern.n}:{pattern.m} fixes the sparsity at {pattern.sparsity}; "
                "leave sparsity and k out"
            )
        return [], global_
    shapes = tuple(t.shape for t in tensors)
    if k is None and sparsity is None and isinstance(pattern, KernelShapes):
        return _groups(pattern, shapes, global_), global_
    if (sparsity is None) == (k is None):
        raise SparselthError("give either sparsity or k, not both and not neither")
    if sparsity is not None:
        if allocation == "given":
            raise SparselthError('allocation="given" takes k, one count per tensor')
        return list(_shares(pattern, shapes, global_, check_sparsity(sparsity))), global_
    assert k is not None
    groups = _groups(pattern, shapes, global_)
    if not isinstance(k, (int, Sequence)) or isinstance(k, (bool, str)):
        raise SparselthError(f"k must be a count or a list of counts, got {k!r}")
    if allocation == "given" and isinstance(k, int):
        raise SparselthError(f'allocation="given" takes one count per tensor, got k={k}')
    counts = [k] * len(groups) if isinstance(k, int) else list(k)
    if len(counts) != len(groups):
        raise SparselthError(f"k has {len(counts)} counts for {len(groups)} selections")
    for i, (count, n) in enumerate(zip(counts, groups, strict=True)):
        counts[i] = as_int(f"k[{i}]", count)
        if not 0 <= counts[i] <= n:
            what = "the tensor's size" if pattern == ELEMENT else "the number of groups"
            raise SparselthError(f"k[{i}] = {count} is outside [0, {n}], {what}")
    return counts, global_


def _selections(shapes: Sequence[Shape], global_: bool) -> list[Sequence[Shape]]:
    return [shapes] if global_ else [[shape] for shape in shapes]


def _groups(pattern: Blocks | KernelShapes, shapes: Sequence[Shape], global_: bool) -> list[int]:
    return [sum(map(pattern.groups, of_one)) for of_one in _selections(shapes, global_)]


@lru_cache(maxsize=256)  # asked for the same weights again and again, up to once a step
def _shares(
    pattern: Blocks | KernelShapes, shapes: tuple[Shape, ...], global_: bool, sparsity: float
) -> tuple[int, ...]:
    return tuple(kept(pattern, of_one, sparsity) for of_one in _selections(shapes, global_))


def kept(pattern: Blocks | KernelShapes, shapes: Sequence[Shape], sparsity: float) -> int:
    """Return how many groups of these weights survive at `sparsity`."""
    return max(0, sum(map(pattern.groups, shapes)) - round(pattern.dropped(shapes, sparsity)))


def check_bias(bias: Tensor | None, weight: Tensor) -> None:
    if bias is None:
        return
    check_floating("bias", bias)
    if bias.shape != (weight.shape[0],):
        raise SparselthError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    check_aligned("bias", bias, "weight", weight)
