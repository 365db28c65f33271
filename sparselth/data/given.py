"""Data that the user brings: a pair of tensors, a DataLoader, or any iterable of batches.

It is served as it is, neither normalized nor augmented.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import SparselthError
from ..seeds import derive, generator
from .dealt import Dealt

Pair = tuple[Tensor, Tensor]

_EXPECTED = (
    "an ImageSet (sparselth.data.load), an ImageFolder, a pair of tensors (x, y), or a DataLoader "
    "or other iterable of batches (x, y)"
)


def is_pair(data: Any) -> bool:
    """Say whether `data` is a pair of tensors."""
    return (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and all(isinstance(part, Tensor) for part in data)
    )


def check_given(data: Any, what: str = "data") -> None:
    """Require a pair of tensors that belong together, or an iterable that lasts for many epochs.

    Raises SparselthError saying what was got and what is expected.
    """
    if is_pair(data):
        _check_batch(data[0], data[1], what)
        if len(data[0]) == 0:
            raise SparselthError(f"{what} holds no samples")
        return
    if isinstance(data, (str, bytes, Tensor, dict)) or not isinstance(data, Iterable):
        raise SparselthError(f"{what} must be {_EXPECTED}; got {type(data).__name__}")
    if isinstance(data, Iterator):
        raise SparselthError(
            f"{what} is a {type(data).__name__}, which gives its batches once and not again in the "
            "next epoch; pass a DataLoader, or a list of the batches"
        )
    if _length(data) == 0:
        raise SparselthError(f"{what} holds no batches")
    if in_memory(data):
        for _ in _batches(data, what):
            pass


def in_memory(data: Any) -> bool:
    """Say whether all batches are there already, so that looking at them costs nothing."""
    return isinstance(data, (list, tuple))


def check_labels(labels: Tensor, classes: int, what: str, ignored: tuple[int, ...] = ()) -> None:
    """Require class numbers that a model of so many logits has.

    ignored: numbers that stand for no class.

    Raises SparselthError saying what the labels run to.
    """
    for number in ignored:
        labels = labels[labels != number]
    if len(labels) == 0:
        return
    least, most = int(labels.min()), int(labels.max())
    if most >= classes or least < 0:
        raise beyond(least, most, classes, what)


def beyond(least: int, most: int, classes: int, what: str) -> SparselthError:
    """Return the error for labels that a model of so many logits does not have."""
    reach = f"to {most}" if most >= classes else f"from {least}"
    return SparselthError(
        f"{what}: labels run {reach}, and the model has {classes} logits; they are class numbers "
        f"from 0 to {classes - 1}"
    )


# What cross entropy passes over.
IGNORED = (-100,)


def check_labels_of(data: Any, classes: int, what: str, ignored: tuple[int, ...] = ()) -> None:
    """Check the labels of a pair of tensors or a list of batches; others come one by one."""
    if is_pair(data):
        check_labels(data[1], classes, what, ignored)
    elif in_memory(data):
        for i, (_, y) in enumerate(data):
            check_labels(y, classes, f"batch {i + 1} of {what}", ignored)


def _length(data: Any) -> int | None:
    """Return how many batches there are, None where the iterable does not say."""
    try:
        return len(data)
    except TypeError:  # also of a DataLoader over a data set that does not say
        return None


class TensorBatches(Dealt):
    """The batches of tensors x (N, ...) and labels y (N,), shuffled anew in each epoch.

    test: a pair or an iterable, or None.  shard: as in `Dealt`.
    """

    def __init__(
        self,
        data: Pair,
        test: Any,
        batch_size: int,
        seed: int,
        device: torch.device,
        shard: tuple[int, int],
    ) -> None:
        super().__init__(len(data[0]), batch_size, shard)
        self.seed = seed
        self.device = device
        self.x, self.y = (part.to(device) for part in data)
        self._test = test

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Pair]:
        """Yield every sample once, in the order of this epoch."""
        rng = generator(self.seed, "batches", epoch)
        order = torch.randperm(self.train_count, generator=rng, device="cpu").to(self.device)
        for step in range(first_step, self.steps):
            places = order[self.part(step)]
            yield self.x[places], self.y[places].long()

    def check_labels(self, classes: int) -> None:
        """Refuse labels that a model of so many logits does not have."""
        check_labels(self.y, classes, "data", IGNORED)
        check_labels_of(self._test, classes, "test")

    def test(self) -> Iterator[Pair]:
        """Yield every test sample once; each process its share."""
        return _tested(self._test, self.device, (self.rank, self.processes), self.batch_size)


class GivenBatches:
    """The batches that an iterable gives, on one device.

    A DataLoader draws its order from torch's global state, which is set for every epoch, so that a
    run that goes on after an epoch sees the same batches; within one it cannot.
    """

    resumes_within = False
    train_count = 0  # nobody knows before the end of an epoch

    def __init__(self, data: Iterable[Any], test: Any, seed: int, device: torch.device) -> None:
        self.data = data
        self.seed = seed
        self.device = device
        self._test = test
        self._images = 0
        self._classes: int | None = None

    @property
    def steps(self) -> int:
        """The number of batches, 0 where the iterable does not say."""
        return _length(self.data) or 0

    def close(self) -> None:
        """Leave the iterable as it is: it is its owner's."""

    def images_in(self, step: int) -> int:
        """Return how many samples the batch has that was yielded last."""
        return self._images

    def train(self, epoch: int, first_step: int = 0) -> Iterator[Pair]:
        """Yield the batches of an epoch."""
        assert first_step == 0, "it cannot begin within an epoch"
        torch.manual_seed(derive(self.seed, "batches", epoch))
        for part in (getattr(self.data, name, None) for name in ("sampler", "batch_sampler")):
            set_epoch = getattr(part, "set_epoch", None)  # of a sampler for several processes
            if set_epoch is not None:
                set_epoch(epoch)
        self._images = 0
        for i, (x, y) in enumerate(_batches(self.data, "data")):
            self._images = len(y)
            if self._classes is not None and not in_memory(self.data):
                check_labels(y, self._classes, f"batch {i + 1} of data", IGNORED)
            yield x.to(self.device), y.to(self.device).long()
        if self._images == 0:
            raise SparselthError("data gave no batches")

    def check_labels(self, classes: int) -> None:
        """Refuse labels that a model of so many logits does not have, later ones as they come."""
        self._classes = classes
        check_labels_of(self.data, classes, "data", IGNORED)
        check_labels_of(self._test, classes, "test")

    def test(self) -> Iterator[Pair]:
        """Yield the batches to be tested on."""
        return _tested(self._test, self.device, (0, 1))


def _tested(
    test: Any, device: torch.device, shard: tuple[int, int], batch_size: int = 500
) -> Iterator[Pair]:
    """Yield batches to be tested on: nothing for None.  shard: rank and size."""
    rank, processes = shard
    if is_pair(test):
        x, y = test
        dealt = Dealt(len(x), batch_size, shard)
        for step in range(-(-len(x) // batch_size)):
            part = dealt.part(step)
            if len(y[part]):
                yield x[part].to(device), y[part].to(device).long()
    elif test is not None:
        for i, (x, y) in enumerate(_batches(test, "test")):
            if i % processes == rank:
                yield x.to(device), y.to(device).long()


def _batches(data: Iterable[Any], what: str) -> Iterator[Pair]:
    first: Tensor | None = None
    for i, batch in enumerate(data):
        name = f"batch {i + 1} of {what}"
        if not is_pair(batch):
            raise SparselthError(
                f"{name}: {what} gave a batch that is a {_named(batch)}; a batch is a pair of "
                "tensors (x, y): give the DataLoader a collate_fn that makes one"
            )
        x, y = batch
        _check_batch(x, y, name)
        if len(x) == 0:
            raise SparselthError(f"{name} is without samples; leave it out")
        first = x if first is None else first
        if (x.dtype, x.dim()) != (first.dtype, first.dim()):
            raise SparselthError(
                f"x of {name} is {x.dtype} of shape {tuple(x.shape)}, that of the first batch "
                f"{first.dtype} of shape {tuple(first.shape)}; make them alike"
            )
        yield x, y


def _named(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of {', '.join(type(part).__name__ for part in batch)}"
    return type(batch).__name__


def _check_batch(x: Tensor, y: Tensor, what: str) -> None:
    for name, tensor in (("x", x), ("y", y)):
        if tensor.is_meta:
            raise SparselthError(
                f"{name} of {what} lies on the meta device, without values; pass data that has them"
            )
        if tensor.layout is not torch.strided:
            raise SparselthError(f"{name} of {what} is {tensor.layout}; pass {name}.to_dense()")
    if not x.is_floating_point():
        raise SparselthError(f"x of {what} must be floating point, got {x.dtype}; pass x.float()")
    if y.dim() != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise SparselthError(
            f"y of {what} must be one class number for each sample, whole numbers (N,), got "
            f"{y.dtype} of shape {tuple(y.shape)}"
        )
    if x.dim() < 1 or len(x) != len(y):
        raise SparselthError(
            f"x and y of {what} differ in length: {tuple(x.shape)} and {tuple(y.shape)}"
        )
