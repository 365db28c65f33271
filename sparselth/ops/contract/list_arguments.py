"""The rules of the ops on lists of tensors: those of `arguments.py` for selections and steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import SparselthError
from ..patterns import (
    KIND_BLOCKS,
    KIND_KERNEL_SHAPES,
    KIND_N_OF_M,
    Blocks,
    KernelShapes,
    NOfM,
    Pattern,
)

Named = dict[str, Any]


def failure(op: str, text: str) -> SparselthError:
    """Return the error of an op whose arguments do not fit."""
    return SparselthError(f"sparselth::{op}: {text}")


_MAY_BE_EMPTY = ("momenta", "masks", "z", "u", "steps")


def check_lists_of(op: str, given: Named) -> None:
    """Compare the lists of an op, `given` by name; raises SparselthError."""
    lists = {n: v for n, v in given.items() if isinstance(v, (list, tuple)) and _of_tensors(n)}
    first_name, first = next(iter(lists.items()))
    steps_in_place = op in ("masked_sgd_", "masked_adamw_")
    if not first and not steps_in_place:
        raise failure(op, f"{first_name} is an empty list")
    for name, tensors in lists.items():
        optional = steps_in_place or op == "weight_overlap"
        if optional and name in _MAY_BE_EMPTY and not tensors:
            continue
        _check_list(op, name, tensors, first)
    if steps_in_place:
        _check_step(op, given)
    elif op == "weight_overlap":
        _check_overlap(op, given)
    else:
        _check_counts(op, given, [t.shape for t in first])


def _of_tensors(name: str) -> bool:
    return name not in ("k", "pattern")


def _check_list(op: str, name: str, tensors: Sequence[Tensor], first: Sequence[Tensor]) -> None:
    if len(tensors) != len(first):
        raise failure(
            op, f"lists differ in length: {name} has {len(tensors)} tensors, not {len(first)}"
        )
    for i, (tensor, like) in enumerate(zip(tensors, first, strict=True)):
        wanted = {"masks": torch.bool, "steps": torch.float32}.get(name, first[0].dtype)
        shape = torch.Size(()) if name == "steps" else like.shape
        if tensor.shape != shape or tensor.dtype != wanted or tensor.device != first[0].device:
            raise failure(
                op,
                f"{name}[{i}] must be {wanted} of shape {tuple(shape)} on {first[0].device}, got "
                f"{tensor.dtype} of {tuple(tensor.shape)} on {tensor.device}",
            )
        if not first[0].is_floating_point():
            raise failure(op, f"takes floating point numbers, got {first[0].dtype}")


def _check_step(op: str, given: Named) -> None:
    if len(given["z"]) != len(given["u"]):
        raise failure(op, f"z and u go together: got {len(given['z'])} and {len(given['u'])}")
    if op == "masked_sgd_" and given["momentum"] != 0 and given["weights"] and not given["momenta"]:
        raise failure(op, "a momentum other than 0 needs momenta")
    if op == "masked_adamw_" and given["weights"] and not given["steps"] and given["step"] < 1:
        raise failure(op, f"step counts from 1, got {given['step']}")


def _check_overlap(op: str, given: Named) -> None:
    a, k = given["a"], given["k"]
    if not k or len(k) % len(a):
        raise failure(op, f"takes as many counts for each tensor, got {len(k)} for {len(a)}")
    asked = len(k) // len(a)
    for i, count in enumerate(k):
        if not 0 <= count <= a[i // asked].numel():
            raise failure(op, f"k[{i}] = {count} is outside [0, {a[i // asked].numel()}]")


def decoded(op: str, code: Sequence[int]) -> Pattern:
    """Return the pattern that `code` encodes; raises SparselthError where it is none."""
    kind, *numbers = code or [KIND_BLOCKS, 1, 1, 1]
    try:
        if kind == KIND_BLOCKS and len(numbers) == 3 and max(numbers) <= 2**30:
            return Blocks(*numbers)
        if kind == KIND_N_OF_M and len(numbers) == 2:
            return NOfM(*numbers)
        if kind == KIND_KERNEL_SHAPES and numbers and len(numbers) > 1:
            return KernelShapes(tuple(numbers[1:]), numbers[0])
    except SparselthError as error:
        raise failure(op, f"{list(code)} is no pattern: {error}") from None
    raise failure(op, f"{list(code)} is no pattern")


def _check_counts(op: str, given: Named, shapes: Sequence[Sequence[int]]) -> None:
    pattern, k, global_ = decoded(op, given["pattern"]), given["k"], given["global_"]
    limits: list[int] = []
    if not isinstance(pattern, NOfM):
        limits = [pattern.groups(shape) for shape in shapes]
        limits = [sum(limits)] if global_ else limits
    if len(k) != len(limits):
        raise failure(op, f"k has {len(k)} counts for {len(limits)} selections")
    for i, (count, most) in enumerate(zip(k, limits, strict=True)):
        if not 0 <= count <= most:
            raise failure(op, f"k[{i}] = {count} is outside [0, {most}]")
