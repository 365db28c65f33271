"""The same scores in every process of a group, each of which sees batches of its own."""

from __future__ import annotations

from collections.abc import Iterable

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
        dist.all_reduce(tensor)
    return int(shared)


def mean_over_processes(scores: Iterable[Tensor]) -> None:
    """Replace scores by their mean over all processes: each looked at its own batches."""
    if processes() > 1:
        for tensor in scores:
            dist.all_reduce(tensor)
            tensor /= processes()


def from_first_process(scores: Iterable[Tensor]) -> None:
    """Replace scores by those of the first process: each drew its own."""
    if processes() > 1:
        for tensor in scores:
            dist.broadcast(tensor, src=0)
