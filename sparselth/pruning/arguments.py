"""Arguments of a search for masks, checked before anything is ranked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor, nn

from ..checks import check_mapping, kind
from ..errors import SparselthError
from ..nn.coverage import coverage
from ..nn.kinds import Site, site_names, sites_of
from ..ops.checks import MASKS, check_mask
from ..ops.patterns import ELEMENT, NAMED, Pattern
from .allocation import TOGETHER, Sparsity
from .scores import Score, name_of
from .scores.context import declared


def checked_within(
    model: nn.Module, sites: Mapping[str, Site], within: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the masks of what is left to choose among, by the names of the places."""
    check_mapping("within", within, MASKS)
    places = site_names(model, sites)
    unknown = sorted(name for name in within if name not in places)
    if unknown:
        raise SparselthError(f"within names {unknown}, which are not ranked here: {sorted(sites)}")
    for name, mask in within.items():
        check_mask(mask, sites[places[name]].slot, f"the mask of {name!r} in within")
    return {places[name]: mask for name, mask in within.items()}


def checked_initial(
    model: nn.Module, sites: Mapping[str, Site], initial: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights before training, by the names of the places."""
    check_mapping("initial", initial, "parameter names to tensors, as a state dict")
    places = site_names(model, sites)
    found = {places[name]: value for name, value in initial.items() if name in places}
    if missing := sorted(sites.keys() - found.keys()):
        raise SparselthError(f"initial lacks {', '.join(missing)}; pass a state dict from before")
    for name, value in found.items():
        slot = sites[name].slot
        if not isinstance(value, Tensor) or value.shape != slot.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else kind(value)
            raise SparselthError(
                f"initial holds {got} for {name!r}, whose shape is {tuple(slot.shape)}"
            )
    return {name: value.detach().to(sites[name].slot.device) for name, value in found.items()}


def pattern_of_score(score: Score, pattern: str | Pattern | None) -> str | Pattern:
    """Return the pattern, that of what the score ranks for None; refuse one that does not fit."""
    says, name = declared(score), name_of(score)
    if says.unit == "filter" and pattern == "coupled":
        if "kept" in says.names:
            raise SparselthError(
                f'the score {name!r} looks at one layer at a time, and pattern="coupled" prunes '
                "several together; take another score"
            )
        return "coupled"
    if says.unit != "weight":
        if pattern not in (None, says.unit, NAMED[says.unit]):
            raise SparselthError(
                f"the score {name!r} ranks whole {says.unit}s; got pattern={pattern!r}, leave it "
                "out or take another score"
            )
        return says.unit
    if says.signed and pattern not in (None, "element", ELEMENT):
        raise SparselthError(
            f"the score {name!r} ranks single weights, by their values; got pattern={pattern!r}, "
            'take "element" or another score'
        )
    return "element" if pattern is None else pattern


def check_allocation(score: Score, allocation: str, pattern: str | Pattern) -> None:
    """Refuse an allocation that a score or a pattern cannot have.

    Raises SparselthError saying which they can.
    """
    if allocation in TOGETHER and "kept" in declared(score).names:
        raise SparselthError(
            f"the score {name_of(score)!r} asks how many filters of each layer stay, which "
            f'allocation="{allocation}" leaves open; take "uniform", "erk" or shares by name'
        )
    if allocation in TOGETHER and pattern == "filter+column":
        raise SparselthError(
            f'pattern="filter+column" prunes each layer by itself; got allocation={allocation!r}, '
            'take "uniform", "erk" or shares by name'
        )
    if allocation == "lamp" and declared(score).signed:
        raise SparselthError(
            f'allocation="lamp" compares magnitudes within a layer, and the score '
            f'{name_of(score)!r} ranks by signed values; take "global" or "uniform"'
        )
    if allocation == "lamp" and pattern not in ("element", ELEMENT):
        raise SparselthError(
            f'allocation="lamp" compares single weights within their layer; got pattern={pattern!r}'
            ', take "global" or "element"'
        )


def warn_of_gaps(model: nn.Module, sites: Mapping[str, Site], sparsity: Sparsity | None) -> None:
    """Warn where weights are left out that nobody excluded, by names or not naming them."""
    if isinstance(sparsity, Mapping):
        return
    covers = coverage(model, sites)
    # Of what is pruned by default, only what was excluded is left out: the rest was refused.
    excluded = {name for name, site in sites_of(model).items() if site.kind.by_default}
    gaps = {
        name: why
        for name, why in covers.left_out.items()
        if name not in excluded and why != "excluded"
    }
    if gaps:
        text = str(type(covers)(covers.covered, covers.total, gaps))
        warnings.warn(text, stacklevel=4)  # who called find_masks
