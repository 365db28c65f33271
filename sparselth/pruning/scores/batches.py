"""Batches as scores read them: pairs, their inputs, how many examples they have, their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...checks import check_callable, first_line, kind
from ...errors import SparselthError
from ..probes import tensors_in

Loss = Callable[[Any, Any], Tensor]
Batch = tuple[Any, Any]


def check_batches(data: object) -> None:
    """Require an iterable of batches, which one tensor or a mapping is not."""
    if isinstance(data, (str, bytes, Tensor, Mapping)) or not isinstance(data, Iterable):
        raise SparselthError(
            f"data must be batches, an iterable of (x, y), got {kind(data)}; of one batch, [(x, y)]"
        )


def check_loss(loss: object) -> None:
    """Require a function of what a model returns and y, not the class of one."""
    if isinstance(loss, type):
        raise SparselthError(
            f"loss must be a function of (model(x), y), got the class {loss.__name__}; pass an "
            f"instance, {loss.__name__}()"
        )
    check_callable("loss", loss, "a function of (model(x), y)")


def listed(data: Iterable[Any]) -> list[Any]:
    """Return all batches, read without moving torch's random numbers on, as a DataLoader does.

    Raises SparselthError for what are no batches.
    """
    check_batches(data)
    with torch.random.fork_rng(_gpus()):
        return list(data)


def _gpus() -> range:
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return range(torch.cuda.device_count() if used else 0)


def pairs(data: Iterable[Any]) -> Iterator[Batch]:
    """Yield the batches of `data`, each a pair.

    Raises SparselthError for one that is none.
    """
    for number, batch in enumerate(data):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise SparselthError(f"batch {number} of data must be a pair (x, y), got {kind(batch)}")
        yield batch[0], batch[1]


def input_of(batch: Any) -> Any:
    """Return the x of a batch (x, y), or a batch that is x itself."""
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def first_input(data: Iterable[Any]) -> Tensor:
    """Return the x of the first batch, read without moving torch's random numbers on.

    Raises SparselthError where there is none, or it is no tensor.
    """
    check_batches(data)
    with torch.random.fork_rng(_gpus()):
        x = input_of(next(iter(data), None))
    if not isinstance(x, Tensor):
        raise SparselthError(f"data must begin with a batch (x, y), x a tensor; got {kind(x)}")
    return x


def size_of(x: Any, y: Any) -> int:
    """Return how many examples a batch has: the first dimension of the first tensor in x, or in y.

    1 where there is none.
    """
    sizes = (len(tensor) for part in (x, y) for tensor in tensors_in(part) if tensor.dim())
    return next(sizes, 1)


# What losses raise for targets that do not fit; of their subclasses some say something else.
_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


def loss_of(loss: Loss, out: Any, y: Any, number: int) -> Tensor:
    """Return the loss of a batch, a finite scalar.

    Raises SparselthError for another one, and where it cannot be computed.
    """
    try:
        value = loss(out, y)
    except _MISFITS as error:
        if type(error) not in _MISFITS:
            raise
        raise SparselthError(
            f"the loss of batch {number} cannot be computed from the model's output, {_told(out)}, "
            f"and y, {_told(y)} ({type(error).__name__}: {first_line(error)}); pass targets as the "
            "loss takes them"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1 or not bool(torch.isfinite(value)):
        said = value.item() if isinstance(value, Tensor) and value.numel() == 1 else None
        raise SparselthError(
            f"the loss of batch {number} must be a finite scalar, got "
            f"{_told(value) if said is None else said}"
        )
    return value.reshape(())


def _told(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    return kind(value)
