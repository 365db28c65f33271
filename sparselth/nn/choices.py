"""Hand what was measured and chosen in a model to the same model in another process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..checks import check_mapping, check_model
from ..errors import SparselthError
from ..ops.kernel_choice.decide import Choice
from .choosing import ChoosingModule
from .stem import StemConv2d

Choices = dict[str, dict[tuple, Any]]
"""Module name -> kind of input -> how it is served."""


def measured_choices(model: nn.Module) -> Choices:
    """Return every choice that was measured in `model`: module name -> kind of input -> choice.

    It may be pickled. What a fixed table chose is not among them: it is the same everywhere.

    Raises SparselthError for what is no model.
    """
    check_model(model)
    return {name: dict(found) for name, found in _kept(model).items()}


def adopt_choices(model: nn.Module, choices: Choices) -> None:
    """Let `model` choose as the one did from which `measured_choices` returned `choices`.

    model: the same model in another process, made sparse with the same masks.
    Kinds of input that were not met there stay as they are.

    Raises SparselthError for what is no model, and for choices of layers that it does not have.
    """
    check_model(model)
    check_mapping("choices", choices, "module names to choices, as measured_choices returns it")
    mine = _kept(model)
    others = sorted(set(choices) - set(mine))
    if others:
        raise SparselthError(
            f"there are choices of {others[0]!r}, where the model has no layer that makes any; "
            "take them from the same model"
        )
    for name, theirs in choices.items():
        mine[name].update({key: _adopted(choice) for key, choice in theirs.items()})
        module = model.get_submodule(name)
        if isinstance(module, ChoosingModule):
            module.forget_paths()


def _adopted(choice: Any) -> Any:
    # Processes that each make a doubtful one anew would part again.
    return replace(choice, doubtful=False) if isinstance(choice, Choice) else choice


def _kept(model: nn.Module) -> Choices:
    found: Choices = {}
    for name, module in model.named_modules():
        if isinstance(module, ChoosingModule) and module._states:
            found[name] = module.service.choices
        elif isinstance(module, StemConv2d):
            if module._enters is None:
                module._enters = {}
            found[name] = module._enters
    return found
