"""Training by several processes: who is there, what they share, what must be the same in all.

`torchrun` starts them and the caller joins them (`torch.distributed.init_process_group`); here is
no launcher. Every process holds the whole model and data set and computes its share of each batch.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import SparselthError


@dataclass(frozen=True)
class World:
    """The processes that train together; one of them alone without `torch.distributed`."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """Return the default process group's."""
        if dist.is_available() and dist.is_initialized():
            _let_threads_finish_at_exit()
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def writes(self) -> bool:
        """Whether this process writes the checkpoints and calls back."""
        return self.rank == 0

    def sum_(self, *tensors: Tensor) -> None:
        """Replace tensors by their sums over all processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Say whether `flag` is set in any process."""
        if self.size == 1:
            return flag
        shared = torch.tensor(int(flag), device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared)

    def from_first(self, value: Any, device: torch.device) -> Any:
        """Return the first process's value in all of them.

        It travels pickled, between processes of one training. device: where the group's tensors
        lie.
        """
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, device=device)
        return held[0]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def check_same(self, what: str, tensors: Mapping[str, Tensor]) -> None:
        """Require the same tensors, bit for bit, in all processes.

        Raises `SparselthError` in every process when they differ in one, naming the first.
        """
        if self.size == 1:
            return
        mine = {name: _digest(tensor) for name, tensor in tensors.items()}
        all_of_them: list[dict[str, str]] = [{} for _ in range(self.size)]
        dist.all_gather_object(all_of_them, mine)
        for rank, theirs in enumerate(all_of_them):
            differing = sorted(
                name
                for name in all_of_them[0].keys() | theirs.keys()
                if all_of_them[0].get(name) != theirs.get(name)
            )
            if differing:
                raise SparselthError(
                    f"{what} of {differing[0]} differs between process 0 and process {rank}; "
                    "draw or load it once and hand it to all"
                )

    def wrapped(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model whose backward averages gradients over all processes."""
        if self.size == 1:
            return model
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)


@functools.cache
def _let_threads_finish_at_exit() -> None:
    """Give up the GIL for a moment before the interpreter is torn down.

    Gloo's threads let go of a collective's tensors some time after it is done, and need the GIL
    for that. One that asks for it during finalisation is made to exit by Python, which C++ answers
    by std::terminate: in torch 2.14 a process that ended a few milliseconds after its last
    collective aborted in one of three runs (of 60), and in none of 200 with this pause. See
    https://github.com/pytorch/pytorch/pull/179291.
    """
    atexit.register(time.sleep, 0.05)


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content + repr((tensor.shape, tensor.dtype)).encode()).hexdigest()
