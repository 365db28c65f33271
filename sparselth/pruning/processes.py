"""The same scores in every process of a group, each of which sees batches of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """Return how many processes there are in the default group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(sums: Iterable[Tensor], count: int) -> int:
    """Replace sums by those over all processes; return the sum of `count` over them."""
    sums = list(sums)
    if processes() == 1:
        return count
    shared = torch.tensor(count, device=sums[0].device)
    for tensor in (*sums, shared):
        tensor.copy_(_exchanged(tensor, dist.all_reduce))
    return int(shared)


def mean_over_processes(scores: Iterable[Tensor]) -> list[Tensor]:
    """Return the mean of scores over all processes: each looked at its own batches."""
    if processes() == 1:
        return list(scores)
    return [_exchanged(score, dist.all_reduce) / processes() for score in scores]


def from_first_process(scores: Iterable[Tensor]) -> list[Tensor]:
    """Return the scores of the first process: each drew its own."""
    if processes() == 1:
        return list(scores)
    return [_exchanged(score, partial(dist.broadcast, src=0)) for score in scores]


def _exchanged(tensor: Tensor, exchange: Callable[[Tensor], object]) -> Tensor:
    """Return what an exchange in place makes of a copy, which it wants contiguous."""
    copy = tensor.detach().clone(memory_format=torch.contiguous_format)
    exchange(copy)
    return copy
