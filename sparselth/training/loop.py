"""The training loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import BatchSource, Data, batches_of
from ..deprecated import renamed_arguments
from ..errors import SparselthError
from ..nn import adopt_choices, measured_choices, sparsify
from ..ops import use_choice
from ..optim import SGD, AdamW, MaskedOptimizer
from ..seeds import derive
from .callbacks import Callback
from .checkpoint import CheckpointFolder
from .checks import check_extras, check_pruning, check_training
from .distributed import World
from .evaluate import evaluate, rehearse
from .extras import Regularizer, StepPruning
from .history import EpochRecord, History
from .interrupt import Interrupt, interruptible
from .recipe import Recipe
from .resume import TrainState, restore, snapshot
from .step import TrainingStep
from .tally import EpochMetrics

# As a shell reports a process that SIGTERM ended.
TERMINATED = 143


@renamed_arguments(regulariser="regularizer")
def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    test: Any = None,
    masks: dict[str, Tensor] | None = None,
    regularizer: Regularizer | None = None,
    pruning: StepPruning | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    device: str | torch.device | None = None,
    on_epoch_end: Callable[[EpochRecord], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train `model` in place on `data` and return what happened in each epoch.

    data: an `ImageSet` (`sparselth.data.load`) or `ImageFolder`, which bring test images and are
    augmented as the recipe says; or a pair of tensors (x, y), x floats (N, ...), y class numbers
    (N,), dealt into batches by the recipe; or a `DataLoader` or other iterable of such batches,
    whose size and order are its own. With the last two `test`, of either form, is what accuracy is
    measured on; without, it is NaN. The loss is cross entropy: the model returns logits, (N,
    classes).

    With `masks` the model is first made sparse, and pruned weights stay exactly zero. `regularizer`
    acts in the optimizer's step, so that the losses reported are the data's alone. `pruning`, a
    `GradualPruning` or `DynamicSparsity` of this model, counts every step of the optimizer and
    changes the masks when it is time to.

    With `checkpoint`, a folder, the run is saved there after every epoch, and within epochs every
    `checkpoint_every` steps; a run that was stopped goes on from there and ends exactly as if it
    had not been (unless the recipe's `choice` is "measured"), and one that was complete is only
    loaded. SIGTERM then saves after the step in progress and raises SystemExit(143). With an
    iterable of batches a run goes on after whole epochs only, as nobody can ask it for a later
    batch: `checkpoint_every` is refused, and SIGTERM ends the epoch in progress first.

    `device` is where the model moves, on a GPU to channels_last; by default it stays.
    `on_epoch_end` and `callbacks` see each epoch once its checkpoint is written.

    In a process group of `torch.distributed` all processes train one model, each on its share of
    every batch; with the same global batch the losses are those of one process within rounding,
    but for batch norm, whose statistics are each process's own (convert the model by
    `nn.SyncBatchNorm.convert_sync_batchnorm` on GPUs). The folder must be one that all of them
    see; the first writes. They agree on SIGTERM where a checkpoint is due. What the first
    process measured all of them choose, from after the first step of an epoch.

    Raises `SparselthError` for what cannot be trained, before anything is: a model without weights
    to train, data of another kind, a device that is not there, a checkpoint that cannot be a
    folder, masks that do not fit, data that the model cannot take, a model that returns something
    else than logits, labels beyond them, in `test` too, a process group whose masks differ. What an
    iterable gives later is checked as it comes. Raises it when a loss is not finite, with the epoch
    and the step; earlier checkpoints stay. Raises `CheckpointError` when `checkpoint` belongs to
    another run or is damaged beyond use.
    """
    check_extras(regularizer, on_epoch_end, checkpoint_every, checkpoint)
    check_pruning(pruning, recipe)
    device = check_training(
        model, recipe, device=device, callbacks=callbacks, checkpoint=checkpoint
    )
    world = World.current()
    shard = (world.rank, world.size)
    batches = batches_of(data, recipe.batch_size, recipe.seed, recipe.augment, device, shard, test)
    if checkpoint_every is not None and not batches.resumes_within:
        raise SparselthError(
            "an iterable of batches cannot go on within an epoch, so checkpoint_every has no use "
            "with it; leave it out, or pass tensors (x, y)"
        )
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    if masks is not None:
        world.check_same("the mask", masks)
        sparsify(model, masks)
    run = _Trainer(model, batches, recipe, regularizer, pruning, device, world)
    run.tests = test is not None
    run.folder = CheckpointFolder(checkpoint) if checkpoint is not None else None
    run.checkpoint_every = checkpoint_every
    if on_epoch_end is not None:
        callbacks = [*callbacks, _Function(on_epoch_end)]
    with closing(batches), interruptible(run.folder is not None) as run.interrupt:
        return run.train([c for c in callbacks if world.writes or c.everywhere])


class _Function(Callback):
    def __init__(self, function: Callable[[EpochRecord], None]) -> None:
        self.function = function

    def epoch_end(self, model: nn.Module, history: History) -> None:
        self.function(history.records[-1])


class _Trainer:
    """A training in progress."""

    folder: CheckpointFolder | None
    checkpoint_every: int | None
    interrupt: Interrupt
    tests: bool
    """Whether test data was given, and may be unlike the data trained on."""

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource,
        recipe: Recipe,
        regularizer: Regularizer | None,
        pruning: StepPruning | None,
        device: torch.device,
        world: World,
    ) -> None:
        self.recipe, self.device, self.world = recipe, device, world
        self.batches = batches
        optimizer = optimizer_for(model, recipe)
        if regularizer is not None:
            regularizer.attach(optimizer)
        wrapped = world.wrapped(model, device)
        step = TrainingStep(wrapped, optimizer, recipe, device, world.size, batches.check_labels)
        data = {"samples": batches.train_count, "batches": batches.steps}
        self.parts = TrainState(
            model, optimizer, step, regularizer, pruning, recipe, History(), data
        )

    def train(self, callbacks: Sequence[Callback]) -> History:
        parts = self.parts
        in_progress = restore(self.folder, parts) if self.folder else None
        history = parts.history
        if self.tests and len(history) < self.recipe.epochs:
            with self._own_random_state(), self._choosing(), parts.step.autocast():
                rehearse(parts.model, self.batches)
        started: list[Callback] = []
        try:
            for callback in callbacks:
                started.append(callback)
                callback.train_begin(parts.model, self.recipe, history)
            for epoch in range(len(history), self.recipe.epochs):
                with self._choosing():
                    history.records.append(self._epoch(epoch, in_progress))
                in_progress = None
                if self.folder:
                    self._save()
                for callback in callbacks:
                    callback.epoch_end(parts.model, history)
                self._leave_if_asked()
        finally:
            for callback in reversed(started):
                callback.train_end()
        return history

    def _epoch(self, epoch: int, in_progress: dict[str, Any] | None) -> EpochRecord:
        """Train for one epoch, or for what is left of it, and evaluate.

        Losses stay on the device until the end: reading one in every step would stall a GPU.
        """
        parts, recipe = self.parts, self.recipe
        learning_rate = recipe.learning_rate_at(epoch)
        for group in parts.optimizer.param_groups:
            group["lr"] = learning_rate
        tally = parts.tally = EpochMetrics(self.batches.steps, self.device)
        parts.model.train()
        if in_progress is not None:
            tally.load_state_dict(in_progress, self.world)
        with self._own_random_state():
            self._steps(epoch, tally)
        tally.check_finite(epoch, self.world)
        parts.tally = None
        if parts.regularizer is not None:
            parts.regularizer.end_epoch(epoch + 1)
        record = tally.record(epoch, learning_rate, self.world)
        if recipe.evaluates(epoch):
            with parts.step.autocast():
                accuracy = evaluate(parts.model, self.batches, self.world)
            record = dataclasses.replace(record, test_accuracy=accuracy)
        return record

    def _choosing(self) -> AbstractContextManager[None]:
        graphed = self.recipe.step == "graph" and self.recipe.choice == "measured"
        return use_choice("graphed" if graphed else self.recipe.choice)

    def _own_random_state(self) -> AbstractContextManager[None]:
        """Leave the caller's state as it was.

        Dropout and the like draw from torch's global one, which is set for each step.
        """
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    def _steps(self, epoch: int, tally: EpochMetrics) -> None:
        begun = time.perf_counter() - tally.seconds
        first = tally.step
        for x, labels in self.batches.train(epoch, first):
            torch.manual_seed(derive(self.recipe.seed, "step", epoch, tally.step, self.world.rank))
            try:
                loss, correct = self.parts.step(x, labels, self.batches.images_in(tally.step))
            except SparselthError as error:
                raise SparselthError(
                    f"{error} (epoch {epoch + 1}, step {tally.step + 1})"
                ) from error
            if self.parts.pruning is not None:
                self.parts.pruning.step()
            tally.add(loss, correct, len(labels))
            if tally.step == first + 1:
                self._share_choices()
            if self._due(tally):
                tally.seconds = time.perf_counter() - begun
                self._save_within(epoch, tally)
                begun = time.perf_counter() - tally.seconds
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        tally.seconds = time.perf_counter() - begun

    def _share_choices(self) -> None:
        """Let all processes use the kernels that the first one measured to be fastest.

        Once per epoch: what an epoch meets later, its last batch and evaluation, is shared in the
        next one. A kind of input that the first one never meets each measures for itself.
        """
        if self.recipe.choice == "measured" and self.world.size > 1:
            measured = measured_choices(self.parts.model)
            adopt_choices(self.parts.model, self.world.from_first(measured, self.device))

    def _due(self, tally: EpochMetrics) -> bool:
        """Say whether a checkpoint follows this step; the epoch's own follows the last one."""
        if self.folder is None or tally.step == self.batches.steps:
            return False
        if not self.batches.resumes_within:
            return False
        every = self.checkpoint_every
        planned = every is not None and tally.step % every == 0
        return planned or (self.interrupt.asked and self.world.size == 1)

    def _save_within(self, epoch: int, tally: EpochMetrics) -> None:
        tally.check_finite(epoch, self.world)  # a state that is lost is not worth keeping
        self._save()
        self._leave_if_asked()

    def _save(self) -> None:
        assert self.folder is not None
        step = self.parts.tally.step if self.parts.tally is not None else 0
        state = snapshot(self.parts, self.world)
        if self.world.writes:
            self.folder.save(len(self.parts.history), state, step)
        self.world.barrier()

    def _leave_if_asked(self) -> None:
        if self.folder is not None and self.world.any(self.interrupt.asked, self.device):
            raise SystemExit(TERMINATED)


def optimizer_for(model: nn.Module, recipe: Recipe) -> MaskedOptimizer:
    """Return the optimizer of a recipe, on the model's masks."""
    parameters, lr, decay = model.parameters(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return AdamW(parameters, lr=lr, weight_decay=decay)
    return SGD(
        parameters, lr=lr, weight_decay=decay, momentum=recipe.momentum, nesterov=recipe.nesterov
    )
