"""The training loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data import Batches, ImageSet
from ..errors import SparselthError
from ..nn import sparsify
from ..ops import use_choice
from ..optim import SGD, MaskedOptimizer
from ..seeds import derive
from .checkpoint import CheckpointFolder
from .evaluate import evaluate
from .history import EpochRecord, History
from .recipe import Recipe
from .resume import restore, snapshot


class Regulariser(Protocol):
    """What pulls the weights besides the loss, with a state of its own."""

    def attach(self, optimizer: MaskedOptimizer) -> None: ...

    def end_epoch(self, epoch: int) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def train(
    model: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    *,
    masks: dict[str, Tensor] | None = None,
    regulariser: Regulariser | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    on_epoch_end: Callable[[EpochRecord], None] | None = None,
) -> History:
    """Train `model` in place on `data` and return what happened in each epoch.

    With `masks` the model is first made sparse, and pruned weights stay exactly zero. `regulariser`
    acts in the optimizer's step, so that the losses reported are the data's alone. With
    `checkpoint`, a folder, the run is saved there after every epoch; a run that was stopped goes on
    from there and ends exactly as if it had not been (unless the recipe's `choice` is "measured"),
    and one that was complete is only loaded. `device` is where the model moves; by default it
    stays.

    Raises `SparselthError` when a loss is not finite, with the epoch and the step; the checkpoint
    of the epoch before stays. Raises `CheckpointError` when `checkpoint` belongs to another run or
    is damaged beyond use.
    """
    device = torch.device(device) if device is not None else _device_of(model)
    model.to(device)
    if masks is not None:
        sparsify(model, masks)
    batches = Batches(data, recipe.batch_size, recipe.seed, recipe.augment, device)
    optimizer = SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    if regulariser is not None:
        regulariser.attach(optimizer)
    folder = CheckpointFolder(checkpoint) if checkpoint is not None else None
    parts = (model, optimizer, regulariser, recipe)
    history = restore(folder, *parts) if folder else History()
    for epoch in range(len(history), recipe.epochs):
        with use_choice(recipe.choice):
            record = _epoch(model, optimizer, batches, recipe, epoch)
            if regulariser is not None:
                regulariser.end_epoch(epoch + 1)
            record = dataclasses.replace(record, test_accuracy=evaluate(model, batches))
        history.records.append(record)
        if folder:
            folder.save(epoch + 1, snapshot(*parts, history))
        if on_epoch_end is not None:
            on_epoch_end(record)
    return history


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    recipe: Recipe,
    epoch: int,
) -> EpochRecord:
    """Train for one epoch; the record's test accuracy is left open.

    Losses stay on the device until the end: reading one in every step would stall a GPU.
    """
    learning_rate = recipe.learning_rate_at(epoch)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    model.train()
    losses = torch.zeros(batches.steps, device=batches.device)
    sizes = torch.zeros(batches.steps, device=batches.device)
    correct = torch.zeros((), dtype=torch.int64, device=batches.device)
    cuda = [batches.device] if batches.device.type == "cuda" else []
    start = time.perf_counter()
    # Dropout and the like draw from torch's global state. It is set for this epoch alone, and the
    # caller's is left as it was.
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive(recipe.seed, "epoch", epoch))
        for step, (x, labels) in enumerate(batches.train(epoch)):
            optimizer.zero_grad(set_to_none=True)
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            losses[step] = loss.detach()
            sizes[step] = len(labels)
            correct += (logits.detach().argmax(1) == labels).sum()
    _check_finite(losses.tolist(), epoch)
    return EpochRecord(
        epoch=epoch + 1,
        learning_rate=learning_rate,
        train_loss=((losses * sizes).sum() / sizes.sum()).item(),
        train_accuracy=100.0 * correct.item() / len(batches.train_labels),
        test_accuracy=float("nan"),
        seconds=time.perf_counter() - start,
    )


def _check_finite(losses: list[float], epoch: int) -> None:
    for step, loss in enumerate(losses):
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise SparselthError(
                f"the loss became {loss} in epoch {epoch + 1}, step {step + 1}; lower the learning "
                "rate, or look for NaN in the data (checkpoints of earlier epochs are kept)"
            )


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise SparselthError("the model has no parameters, so there is nothing to train")
    return parameter.device
