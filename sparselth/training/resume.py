"""What a checkpoint of the training loop holds, and how a run goes on from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import masks_of, move_masks
from ..nn.kinds import masked_modules
from ..nn.owners import mask_name
from .checkpoint import CheckpointError, CheckpointFolder, same_tensors
from .distributed import World
from .history import History
from .recipe import Recipe
from .step import TrainingStep
from .tally import EpochMetrics


@dataclass
class TrainState:
    """What a training changes, and what a checkpoint therefore holds.

    data: how many samples and batches an epoch has; 0 where nobody knows.
    tally: the epoch in progress, or None between epochs.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: TrainingStep
    regularizer: Any
    pruning: Any
    recipe: Recipe
    history: History
    data: dict[str, int]
    tally: EpochMetrics | None = None


def snapshot(parts: TrainState, world: World) -> dict[str, Any]:
    """Gather everything from which the run goes on exactly.

    No random state: every draw follows from the recipe's seed, the epoch and the step. The masks
    stand apart from the model's weights, so that a plain dense model can load those. Every process
    must call, for what they counted in an epoch in progress.
    """
    regularizer, tally = parts.regularizer, parts.tally
    return {
        "model": plain_weights(parts.model),
        "masks": masks_of(parts.model),
        "optimizer": parts.optimizer.state_dict(),
        "scaling": parts.step.state_dict(),
        "regularizer": None if regularizer is None else regularizer.state_dict(),
        "pruning": None if parts.pruning is None else parts.pruning.state_dict(),
        "recipe": parts.recipe.to_dict(),
        "data": parts.data,
        "history": parts.history.to_rows(),
        "tally": None if tally is None else tally.state_dict(world),
    }


def restore(folder: CheckpointFolder, parts: TrainState) -> dict[str, Any] | None:
    """Load the newest checkpoint of `folder`, if any; return the state of an epoch in progress.

    Nothing is loaded, and `CheckpointError` raised, when the checkpoint is of another run.
    """
    newest = folder.load()
    if newest is None:
        return None
    _, state = newest
    _check_same_run(folder, state, parts)
    if parts.pruning is not None:
        move_masks(parts.model, _on_device_of(parts.model, state["masks"]))
    recorded = state.get("data", parts.data)  # older ones do not say
    if recorded != parts.data:
        raise CheckpointError(
            f"the checkpoint in {folder.path} was trained on {_told(recorded)}, this run has "
            f"{_told(parts.data)}; name another folder, or delete this one to start anew"
        )
    parts.model.load_state_dict(state["model"])  # masked modules keep the masks they have now
    if parts.pruning is not None:
        parts.pruning.load_state_dict(state["pruning"])
    parts.optimizer.load_state_dict(state["optimizer"])
    parts.step.load_state_dict(state.get("scaling", {}))  # older ones have none
    if parts.regularizer is not None:
        parts.regularizer.load_state_dict(state["regularizer"])
    parts.history = History.from_rows(state["history"])
    return state.get("tally")


def _told(data: dict[str, int]) -> str:
    return f"{data['samples'] or 'unknown'} samples in {data['batches'] or 'unknown'} batches"


def load_weights(folder: CheckpointFolder) -> dict[str, Tensor]:
    """Load the model's state dict alone, from the newest checkpoint of a run."""
    newest = folder.load()
    if newest is None:
        raise CheckpointError(f"there is no checkpoint in {folder.path}; train first")
    weights: dict[str, Tensor] = newest[1]["model"]
    return weights


def _on_device_of(model: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask.to(model.get_parameter(name).device) for name, mask in masks.items()}


def _check_same_run(folder: CheckpointFolder, state: dict[str, Any], parts: TrainState) -> None:
    model, recipe = parts.model, parts.recipe
    advice = "name another folder, or delete this one to start anew"
    # An older one lacks what could not be asked for then, and was the default.
    recorded = {**Recipe().to_dict(), **state["recipe"]}
    for name, value in recipe.to_dict().items():
        if recorded.get(name) != value:
            raise CheckpointError(
                f"the checkpoint in {folder.path} was trained with {name}="
                f"{recorded.get(name)}, this run has {name}={value}; {advice}"
            )
    shapes = {name: tensor.shape for name, tensor in plain_weights(model).items()}
    if shapes != {name: tensor.shape for name, tensor in state["model"].items()}:
        raise CheckpointError(f"the checkpoint in {folder.path} is of another model; {advice}")
    moved = (state.get("pruning") is not None, parts.pruning is not None)
    if moved[0] != moved[1]:
        raise CheckpointError(
            f"the checkpoint in {folder.path} was trained {'with' if moved[0] else 'without'} "
            f"pruning, this run is {'with' if moved[1] else 'without'}; {advice}"
        )
    # Those that move are where they have got to.
    if parts.pruning is None and not same_tensors(masks_of(model), state["masks"]):
        raise CheckpointError(f"the checkpoint in {folder.path} has other masks; {advice}")


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict that a dense model has: without the masks."""
    masks = {
        f"{path}.{mask_name(local)}" if path else mask_name(local)
        for path, module in masked_modules(model)
        for local in module.masks()
    }
    return {name: tensor for name, tensor in model.state_dict().items() if name not in masks}
