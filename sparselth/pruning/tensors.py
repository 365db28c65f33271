"""Which tensors of a model are pruned."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ..errors import SparselthError


def prunable_parameters(
    model: nn.Module, exclude: Collection[str] | None = None
) -> dict[str, nn.Parameter]:
    """Return the weights of every Conv2d and Linear by parameter name, in model order.

    exclude: parameter names to leave dense. None leaves out the first convolution and the
    classifier (the last Linear), as Liu et al. 2021 (arXiv:2102.11068) and its group's
    configurations do; pass () to prune everything.

    Raises SparselthError when nothing is left, or `exclude` names a weight the model lacks.
    """
    convs: dict[str, nn.Parameter] = {}
    linears: dict[str, nn.Parameter] = {}
    both: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            kind = convs if isinstance(module, nn.Conv2d) else linears
            key = f"{name}.weight" if name else "weight"
            kind[key] = both[key] = module.get_parameter("weight")
    if exclude is None:
        exclude = {*list(convs)[:1], *list(linears)[-1:]}
    unknown = set(exclude) - set(both)
    if unknown:
        raise SparselthError(
            f"exclude names {sorted(unknown)}, but the model's Conv2d and Linear weights are "
            f"{sorted(both)}"
        )
    chosen = {name: weight for name, weight in both.items() if name not in exclude}
    if not chosen:
        raise SparselthError(
            "the model has no weight to prune: besides the first convolution and the classifier "
            "there is no Conv2d or Linear; pass exclude=() to prune those too"
        )
    return chosen
