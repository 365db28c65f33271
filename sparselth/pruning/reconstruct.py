"""Least-squares refit: what is left of a layer takes over what was pruned from it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..checks import check_mapping, check_model
from ..errors import SparselthError
from ..nn import masks_of
from ..nn.kinds import owners_of
from ..ops.checks import MASKS, check_mask
from .leaving import left_as_it_was
from .processes import sum_over_processes
from .scores.batches import Batch, listed
from .scores.layer_inputs import check_reconstructed, layer_inputs
from .tensors import layer_of


@torch.no_grad()
def reconstruct(
    model: nn.Module, masks: Mapping[str, Tensor], data: Iterable[Batch]
) -> dict[str, tuple[float, float]]:
    """Prune inputs of layers and refit what is left so that their outputs stay what they were.

    In model order: the weights left minimize the squared difference between the layer's output, for
    what now comes in, and that of the model as it was; biases stay. In place: pruned weights
    become zero, and `sparsify(model, masks)` keeps them so.

    model: dense and trained.  masks: parameter name -> bool mask, of whole input channels, as
    `find_masks(score="lasso")` or pattern="channel" finds; whole filters may be pruned besides.
    data: batches (x, y), of which x is read, as for the "lasso" score: ten positions of each map.
    In a process group the sums are over the batches of all processes, which all call this.
    Returns parameter name -> the squared error of the output relative to its square, with the
    weights left as they were and refitted; the second is never above the first.

    Raises SparselthError for a sparse model, masks that are none or prune other than whole inputs,
    layers other than Conv2d of one group and Linear, a weight that layers share, NaN and Inf in
    what layers take, and no batch.

    Reference: He et al. 2017, "Channel pruning", arXiv:1707.06168, section 3.1.
    """
    check_model(model)
    check_mapping("masks", masks, MASKS)
    if masks_of(model):
        raise SparselthError("reconstruct refits a dense model; call sparselth.densify first")
    parameters = dict(model.named_parameters())
    if unknown := sorted(masks.keys() - parameters.keys()):
        raise SparselthError(f"masks name {unknown}, which the model does not have")
    owners = owners_of(model)
    for name in masks:
        check_reconstructed(name, layer_of(model, name))
        if len(several := owners[id(parameters[name])]) > 1:
            raise SparselthError(
                f"{' and '.join(other for other, _, _ in several)} are one weight, which cannot be "
                "refitted for several layers at once; leave its mask out"
            )
    inputs = {name: _inputs(name, parameters[name], mask) for name, mask in masks.items()}
    before, batches = copy.deepcopy(model), listed(data)
    errors = {}
    with left_as_it_was(model):
        for name in (n for n in parameters if n in masks):
            errors[name] = _refit(name, model, before, masks[name], inputs[name], batches)
    return errors


def _inputs(name: str, weight: Tensor, mask: Tensor) -> Tensor:
    """Return which inputs a mask keeps, (C_in,) bool."""
    check_mask(mask, weight, f"the mask of {name!r}")
    kept = mask.transpose(0, 1).flatten(1).any(1)
    whole = mask.flatten(1).any(1)
    shape = (-1, 1, *[1] * (mask.dim() - 2))
    if not torch.equal(mask, (whole.view(shape) & kept.view(1, -1, *shape[2:])).expand_as(mask)):
        raise SparselthError(
            f"the mask of {name!r} prunes other than whole inputs and whole filters; take "
            'score="lasso" or pattern="channel"'
        )
    return kept


def _refit(
    name: str,
    model: nn.Module,
    before: nn.Module,
    mask: Tensor,
    kept: Tensor,
    batches: list[Batch],
) -> tuple[float, float]:
    weight, old = model.get_parameter(name), before.get_parameter(name).detach().double()
    columns = kept.view(-1, 1).expand(-1, old[0, 0].numel()).flatten()  # (C_in * taps,)
    gram = torch.zeros(len(columns), len(columns), dtype=torch.float64, device=weight.device)
    cross = torch.zeros(len(columns), len(old), dtype=torch.float64, device=weight.device)
    square = torch.zeros((), dtype=torch.float64, device=weight.device)
    both = (layer_inputs(one, [name], batches) for one in (model, before))
    for (_, now), (_, then) in zip(*both, strict=True):
        x, target = now.flatten(1), then.flatten(1) @ old.flatten(1).T
        gram += x.T @ x
        cross += x.T @ target
        square += target.square().sum()
    sum_over_processes([gram, cross, square], 1)
    whole = float(square)

    def error(values: Tensor) -> float:
        missed = (values @ gram * values).sum() - 2 * (values * cross.T).sum()
        return max(whole + float(missed), 0.0) / max(whole, torch.finfo(torch.float64).tiny)

    masked = (old * mask).flatten(1)
    # The smallest change of what is left: where the data leave a choice, weights stay near.
    missing = (cross - gram @ masked.T)[columns]
    driver = "gelsd" if weight.device.type == "cpu" else None  # copies of a channel: rank is lost
    change = torch.linalg.lstsq(gram[columns][:, columns], missing, driver=driver).solution
    refit = masked.clone()
    refit[:, columns] += change.T
    refit *= mask.flatten(1)  # whole filters that are pruned as well
    errors = error(masked), error(refit)
    best = refit if errors[1] < errors[0] else masked
    weight.copy_(best.view_as(weight))
    return errors[0], min(errors)
