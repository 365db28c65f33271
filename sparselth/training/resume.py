"""What a checkpoint of the training loop holds, and how a run goes on from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import masks_of
from .checkpoint import CheckpointError, CheckpointFolder, same_tensors
from .history import History
from .recipe import Recipe


def snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    regulariser: Any,
    recipe: Recipe,
    history: History,
) -> dict[str, Any]:
    """Gather everything from which the run goes on exactly.

    No random state: every draw follows from the recipe's seed and the epoch. The masks stand apart
    from the model's weights, so that a plain dense model can load those.
    """
    return {
        "model": _weights(model),
        "masks": masks_of(model),
        "optimizer": optimizer.state_dict(),
        "regulariser": None if regulariser is None else regulariser.state_dict(),
        "recipe": _plain(recipe),
        "history": history.to_rows(),
    }


def restore(
    folder: CheckpointFolder,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    regulariser: Any,
    recipe: Recipe,
) -> History:
    """Load the newest checkpoint of `folder`, if any, and return the history so far.

    Nothing is loaded, and `CheckpointError` raised, when the checkpoint is of another run.
    """
    found = folder.load()
    if found is None:
        return History()
    _, state = found
    _check_same_run(folder, state, model, recipe)
    model.load_state_dict(state["model"])  # masked modules keep the masks just compared
    optimizer.load_state_dict(state["optimizer"])
    if regulariser is not None:
        regulariser.load_state_dict(state["regulariser"])
    return History.from_rows(state["history"])


def load_weights(folder: CheckpointFolder) -> dict[str, Tensor]:
    """Load the model's state dict alone, from the newest checkpoint of a run."""
    found = folder.load()
    if found is None:
        raise CheckpointError(f"there is no checkpoint in {folder.path}; train first")
    weights: dict[str, Tensor] = found[1]["model"]
    return weights


def _check_same_run(
    folder: CheckpointFolder,
    state: dict[str, Any],
    model: nn.Module,
    recipe: Recipe,
) -> None:
    advice = "name another folder, or delete this one to start anew"
    recorded = {"choice": "fixed", **state["recipe"]}  # what there was before one could ask
    for name, value in _plain(recipe).items():
        if recorded.get(name) != value:
            raise CheckpointError(
                f"the checkpoint in {folder.path} was trained with {name}="
                f"{recorded.get(name)}, this run has {name}={value}; {advice}"
            )
    shapes = {name: tensor.shape for name, tensor in _weights(model).items()}
    if shapes != {name: tensor.shape for name, tensor in state["model"].items()}:
        raise CheckpointError(f"the checkpoint in {folder.path} is of another model; {advice}")
    if not same_tensors(masks_of(model), state["masks"]):
        raise CheckpointError(f"the checkpoint in {folder.path} has other masks; {advice}")


def _weights(model: nn.Module) -> dict[str, Tensor]:
    masks = {f"{name}_mask" for name in masks_of(model)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in masks}


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Convert to what JSON gives back: lists instead of tuples."""
    values = dataclasses.asdict(recipe)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
