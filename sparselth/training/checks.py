"""What a training is asked for, checked before the model is touched and anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..checks import check_callable, check_device, check_model, check_whole, kind
from ..errors import SparselthError
from ..files import make_folder
from ..pruning import ADMM
from .callbacks import Callback
from .recipe import Recipe
from .step import check_step

_REGULARIZES = ("attach", "end_epoch", "state_dict", "load_state_dict")


def check_training(
    model: nn.Module,
    *recipes: Recipe,
    device: str | torch.device | None,
    callbacks: Iterable[Callback],
    checkpoint: str | Path | None,
) -> torch.device:
    """Check what can be before the model is touched; return where it will be trained.

    The folder for checkpoints is made.

    Raises SparselthError for a model, recipe, device, callback or folder that cannot be one.
    """
    _check_weights(model)
    where = next(model.parameters()).device if device is None else check_device(device)
    for recipe in recipes:
        check_recipe(recipe)
        check_step(recipe, where)
    _check_callbacks(callbacks)
    if checkpoint is not None:
        make_folder(checkpoint, "checkpoint")
    return where


def check_recipe(recipe: Any) -> None:
    """Require a recipe."""
    if not isinstance(recipe, Recipe):
        raise SparselthError(f"recipe must be a sparselth.Recipe, got {kind(recipe)}")


def check_extras(regularizer: Any, on_epoch_end: Any, every: Any, checkpoint: Any) -> None:
    """Check what `train` takes besides. every: its checkpoint_every."""
    if regularizer is not None:
        missing = [name for name in _REGULARIZES if not callable(getattr(regularizer, name, None))]
        if missing or isinstance(regularizer, type):
            wrap = "; wrap it: sparselth.training.ADMMSchedule(admm)"
            raise SparselthError(
                "regularizer must be a sparselth.training.ADMMSchedule or have what it has, "
                f"{', '.join(_REGULARIZES)}; got {kind(regularizer)}"
                f"{wrap * isinstance(regularizer, ADMM)}"
            )
    if on_epoch_end is not None:
        check_callable("on_epoch_end", on_epoch_end, "a function of an EpochRecord")
    if every is None:
        return
    check_whole("checkpoint_every, which counts steps,", every, 1)
    if checkpoint is None:
        raise SparselthError(
            f"checkpoint_every={every} got no checkpoint to write to; name a folder with "
            "checkpoint, or leave it out"
        )


def check_pruning(pruning: Any, recipe: Any) -> None:
    """Check what changes masks between steps, and that the recipe's step lets it."""
    if pruning is None:
        return
    wanted = ("step", "state_dict", "load_state_dict")
    if isinstance(pruning, type) or not all(callable(getattr(pruning, n, None)) for n in wanted):
        raise SparselthError(
            "pruning must be a sparselth.pruning.GradualPruning or DynamicSparsity of the model; "
            f"got {kind(pruning)}"
        )
    step = getattr(recipe, "step", "eager")
    if step == "graph" or (step != "eager" and getattr(pruning, "eager_only", False)):
        raise SparselthError(
            f'the masks that {type(pruning).__name__} changes do not go with step="{step}", which '
            'is recorded once; take step="eager"'
        )


def _check_weights(model: nn.Module) -> None:
    """Require weights that can be trained."""
    check_model(model)
    parameters = dict(model.named_parameters())
    if not parameters:
        raise SparselthError("the model has no parameters, so there is nothing to train")
    lazy = [name for name, parameter in parameters.items() if is_lazy(parameter)]
    if lazy:
        raise SparselthError(
            f"the model has lazy layers, whose weights are not there yet ({lazy[0]}); pass a batch "
            "through it first"
        )
    tensors = {**parameters, **dict(model.named_buffers())}
    away = [name for name, tensor in tensors.items() if tensor.is_meta]
    if away:
        raise SparselthError(
            f"{away[0]} of the model lies on the meta device, without values; make the model on a "
            'real one, or use model.to_empty(device="cpu") and initialize it'
        )
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise SparselthError(
            "every parameter of the model is frozen, so there is nothing to train; use "
            "requires_grad_(True) on what is to be trained"
        )


def _check_callbacks(callbacks: Any) -> None:
    if isinstance(callbacks, Callback):
        raise SparselthError(
            f"callbacks must be a list of them, got a {type(callbacks).__name__}; pass "
            f"[{type(callbacks).__name__}(...)]"
        )
    if isinstance(callbacks, (str, bytes)) or not isinstance(callbacks, (list, tuple)):
        raise SparselthError(
            f"callbacks must be a list of sparselth.training.Callback, got {kind(callbacks)}"
        )
    for i, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            got = f"the class {callback.__name__}" if isinstance(callback, type) else repr(callback)
            raise SparselthError(
                f"callbacks[{i}] must be a sparselth.training.Callback, got {got}; make one, or "
                "derive a class from it"
            )
