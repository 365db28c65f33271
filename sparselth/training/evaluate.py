"""Measure accuracy on the test images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..checks import check_model, kind
from ..data import BatchSource
from ..data.given import beyond, check_labels
from ..errors import SparselthError
from .distributed import World
from .logits import laid_out, logits_of


@torch.no_grad()
def evaluate(model: nn.Module, batches: BatchSource, world: World | None = None) -> float:
    """Return the test accuracy in percent, NaN without test data; the model's mode is left.

    model: returns logits (N, classes); evaluated in eval mode, without gradients, within the
    autocast of the caller, on a GPU on images in channels_last.
    batches: of `sparselth.data.batches_of`; all of their test data is seen.
    world: the processes among which the batches are dealt, when there are several.

    Raises SparselthError for batches that the model cannot take, an answer that is no logits, and
    labels beyond them.
    """
    check_model(model)
    if not callable(getattr(batches, "test", None)) or not hasattr(batches, "device"):
        raise SparselthError(
            "batches must be made by sparselth.data.batches_of, which takes what train does; got "
            f"{kind(batches)}"
        )
    correct = torch.zeros((), dtype=torch.int64, device=batches.device)
    seen, most = torch.zeros_like(correct), torch.zeros_like(correct)
    least = torch.zeros_like(correct)
    classes = 0
    with _evaluating(model):
        for x, labels in batches.test():
            logits = logits_of(model, laid_out(x), "test")
            correct += (logits.argmax(1) == labels).sum()
            seen += len(labels)
            # Looked at when all is done: each look would wait for a GPU.
            most, least = most.maximum(labels.max()), least.minimum(labels.min())
            classes = logits.shape[1]
    if classes and (int(most) >= classes or int(least) < 0):
        raise beyond(int(least), int(most), classes, "test")
    if world is not None:
        world.sum_(correct, seen)
    return 100.0 * correct.item() / seen.item() if seen.item() else math.nan


@torch.no_grad()
def rehearse(model: nn.Module, batches: BatchSource) -> None:
    """Evaluate one batch, so that what would fail after an epoch of training does before it.

    Raises SparselthError as `evaluate` does.
    """
    with _evaluating(model):
        for x, labels in batches.test():
            classes = logits_of(model, laid_out(x), "test").shape[1]
            batches.check_labels(classes)
            check_labels(labels, classes, "test")  # of an iterable that the line above left
            return


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
