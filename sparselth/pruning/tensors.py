"""Which tensors of a model are pruned."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ..errors import SparselthError


def first_and_last(model: nn.Module) -> tuple[str | None, str | None]:
    """Return the parameter names of the first Conv2d's weight and of the classifier's, the last
    Linear's; None for one that the model lacks.

    These are what `prunable_parameters` excludes by default.
    """
    modules = _modules(model)
    convs = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    linears = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    return (convs[0] if convs else None), (linears[-1] if linears else None)


def prunable_parameters(
    model: nn.Module, exclude: Collection[str] | None = None
) -> dict[str, nn.Parameter]:
    """Return the weights of every Conv2d and Linear by parameter name, in model order.

    exclude: parameter names to leave dense. None leaves out the first convolution and the
    classifier (the last Linear), as Liu et al. 2021 (arXiv:2102.11068) and its group's
    configurations do; pass () to prune everything.

    Raises SparselthError when nothing is left, or `exclude` names a weight the model lacks.
    """
    modules = _modules(model)
    if exclude is None:
        exclude = {name for name in first_and_last(model) if name is not None}
    unknown = set(exclude) - set(modules)
    if unknown:
        raise SparselthError(
            f"exclude names {sorted(unknown)}, but the model's Conv2d and Linear weights are "
            f"{sorted(modules)}"
        )
    chosen = {
        name: module.get_parameter("weight")
        for name, module in modules.items()
        if name not in exclude
    }
    if not chosen:
        raise SparselthError(
            "the model has no weight to prune: besides the first convolution and the classifier "
            "there is no Conv2d or Linear; pass exclude=() to prune those too (in a study, "
            "prune_first and prune_classifier)"
        )
    return chosen


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return every Conv2d and Linear by its weight's parameter name, in model order."""
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
