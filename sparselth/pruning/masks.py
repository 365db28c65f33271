"""find_masks: a score ranks weights, an allocation says how many stay, top-k picks them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from ..checks import check_mapping, check_model
from ..deprecated import keyword_only
from ..errors import SparselthError
from ..nn import masks_of
from ..ops.checks import MASKS, check_mask
from ..ops.patterns import Pattern
from ..ops.transforms import has_values
from .allocation import Sparsity
from .arguments import warn_of_gaps
from .schedules import Schedule, find_schedule
from .scores import Score
from .scores.batches import Batch, Loss
from .scores.context import declared
from .search import Search

# That could be given by place.
_ARGUMENTS = ("score", "sparsity", "allocation", "pattern", "exclude", "include")


@keyword_only(*_ARGUMENTS)
def find_masks(
    model: nn.Module,
    *,
    score: str | Score = "magnitude",
    sparsity: Sparsity | None = None,
    allocation: str = "uniform",
    pattern: str | Pattern | None = None,
    exclude: Collection[str] | None = None,
    include: Collection[str] = (),
    data: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    initial: Mapping[str, Tensor] | None = None,
    within: Mapping[str, Tensor] | None = None,
    steps: int | None = None,
    schedule: str | Schedule = "exponential",
    budget: str = "weights",
) -> dict[str, Tensor]:
    """Choose which weights to keep: parameter name -> bool mask.

    score: what ranks the weights, one of `SCORES`, or a function of your own: it gets the weights,
    parameter name -> tensor, detached, zero where `within` prunes it, and a `ScoreContext`, and
    returns scores, parameter name -> tensor of real numbers of the weight's shape. The largest
    magnitudes stay.
    sparsity: share of the prunable weights to prune, in [0, 1); met exactly up to rounding, ties
    go to the lowest index. None is 0.9, or what the pattern prunes by itself. Or shares by
    parameter name or pattern of names, such as {"layer4.*": 0.98, "*": 0.9}: a name goes before a
    pattern, a longer pattern before a shorter one, and a layer that no key fits stays dense. A name
    asks for its layer also where that is left out by default.
    allocation: of one share: "uniform" prunes it in every layer, "global" ranks all layers
    together, "lamp" too, by a weight's share among those of its layer that are no smaller, "erk"
    prunes large layers more than small ones, see `erk_sparsities`. Shares by name
    are allocated already, which "given" says too. All but "global" and "lamp" keep at least one
    weight or group in every layer, and warn where rounding would have left none.
    pattern: what is pruned as one unit: "element", "filter", "channel", "kernel", "column" (one tap
    of an input), blocks of outputs x inputs such as "16x1" or "32x32", "2:4" along the inputs,
    "kernel_shape", a dictionary of 3x3 shapes found from the weights, "filter+column", both at
    once, or "coupled", channels with all that makes and takes them, which wants `data`; or a
    pattern of `sparselth.ops.patterns`. A sparsity is a share of groups, or of weights with
    "kernel_shape" and "filter+column". None is what the score ranks: single weights, or whole
    filters or channels.
    budget: what one sparsity is a share of: "weights", or "flops", the multiplications of the
    layers that are pruned, counted by the first x of `data`.
    exclude: parameter names to leave dense, or patterns such as "*.qkv.weight"; None leaves out the
    first convolution and the classifier.  include: what is pruned on request only, embeddings. Both
    as in `prunable_parameters`.
    data: batches for a score that sees data, an iterable of (x, y) as the model and the loss take
    them, on the model's device.  loss: called as loss(model(x), y), the mean over the batch. The
    model's modes, buffers and gradients, and torch's random numbers, are afterwards as they were.
    initial: the weights before training, a state dict, for a score that looks at them.
    steps: in how many steps it is pruned, each ranked anew. None is 1, and 100 for "synflow".
    schedule: what share is pruned after which step, one of `SCHEDULES`, or a function (part, first,
    last) -> sparsity; "exponential" prunes the same share of what is left in each.
    within: masks, parameter name -> bool, of what is left to choose among: nothing pruned there
    comes back, and scores that see data see the network without it. The sparsity stays a share of
    all weights.

    In a process group of torch.distributed every process gets the same masks, each by batches of
    its own: all of them call this, but for "magnitude".

    Warns of weights that cannot have masks, with the share of the model that the masks cover.

    Raises SparselthError for an unknown name (listing the known ones), a sparsity outside
    [0, 1) or beyond the pattern, NaN or Inf in a weight (naming it), a score that is not one of
    each weight, or layers that "global" would leave without any weight, see `check_alive`.
    """
    search = Search.prepared(
        model,
        score,
        sparsity,
        allocation,
        pattern,
        exclude,
        include,
        data,
        loss,
        within,
        initial,
        budget,
    )
    *before, last = search.in_steps(
        declared(search.score).steps if steps is None else steps, find_schedule(schedule)
    )
    search.check_enough()
    warn_of_gaps(model, search.sites, search.sparsity)
    left = search.context.masks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rounding: said of what comes out
        for step in before:
            left = step.among(left).run()
    masks = last.among(left).run()
    check_alive(masks)
    return masks


@keyword_only(*_ARGUMENTS)
def check_search(
    model: nn.Module,
    *,
    score: str | Score = "magnitude",
    sparsity: Sparsity | None = None,
    allocation: str = "uniform",
    pattern: str | Pattern | None = None,
    exclude: Collection[str] | None = None,
    include: Collection[str] = (),
    data: Iterable[Batch] | None = None,
    loss: Loss | None = None,
    initial: Mapping[str, Tensor] | None = None,
    within: Mapping[str, Tensor] | None = None,
    budget: str = "weights",
) -> None:
    """Check what `find_masks` will be asked for, before a training that ends with it.

    model, score, sparsity, allocation, pattern, exclude, include, data, loss, initial, within,
    budget: as in `find_masks`. A score of your own is not called.

    Raises SparselthError as `find_masks` would for these arguments and the model's layers; what
    depends on the trained weights (NaN, a layer that "global" empties) shows only then.
    """
    search = Search.prepared(
        model,
        score,
        sparsity,
        allocation,
        pattern,
        exclude,
        include,
        data,
        loss,
        within,
        initial,
        budget,
    )
    search.check_enough()


def check_alive(masks: Mapping[str, Tensor]) -> None:
    """Refuse masks that leave a layer without any weight.

    masks: parameter name -> bool mask. A weight of no entries at all passes.

    Raises SparselthError naming every such layer, and for what are no masks.
    """
    _check_masks(masks)
    dead = [name for name, mask in masks.items() if mask.numel() and not bool(mask.any())]
    if dead:
        raise SparselthError(
            f"no weight is left in {', '.join(dead)}; lower the sparsity, use allocation="
            '"uniform", which keeps at least one weight in each layer, or exclude these layers'
        )


def _check_masks(masks: Mapping[str, Tensor]) -> None:
    check_mapping("masks", masks, MASKS)
    for name, mask in masks.items():
        check_mask(mask, mask, f"the mask of {name!r}")


def sparsity(of: nn.Module | Mapping[str, Tensor]) -> float:
    """Return the share of pruned entries, in [0, 1], of a sparsified model or of masks.

    Raises SparselthError where masks have no values, on the meta device, or are not masks at all.
    """
    if not isinstance(of, Mapping):
        check_model(of)
    named = masks_of(of) if isinstance(of, nn.Module) else of
    _check_masks(named)
    masks = list(named.values())
    away = [name for name, mask in named.items() if not has_values(mask)]
    if away:
        raise SparselthError(
            f"the masks of {', '.join(away)} lie on the meta device, without values, as offloading "
            "leaves buffers; ask before that, offload the parameters only, or remove the hooks"
        )
    total = sum(mask.numel() for mask in masks)
    return 1.0 - sum(int(mask.count_nonzero()) for mask in masks) / total if total else 0.0


__all__ = ["check_alive", "check_search", "find_masks", "sparsity"]
