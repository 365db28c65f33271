"""Which tensors of a model are pruned."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase

from torch import nn

from ..checks import check_model, check_names
from ..errors import SparselthError
from ..nn.kinds import CONVOLUTIONS, Site, owners_of, site_names, sites_of
from ..ops.parameter_masks import is_sharded
from .allocation import Sparsity


def first_and_last(model: nn.Module) -> tuple[str | None, str | None]:
    """Return the parameter names of the first convolution's weight and of the classifier's, the
    last Linear's; None for one that the model lacks.

    These are what `prunable_parameters` excludes by default. A classifier that shares its weight
    with an embedding is named as the weight is, by its first name.

    Raises SparselthError for what is no model.
    """
    check_model(model)
    sites, owners = sites_of(model), owners_of(model)
    place = {module: i for i, module in enumerate(model.modules())}
    convs = [name for name, site in sites.items() if isinstance(site.module, CONVOLUTIONS)]
    last, classifier = -1, None
    for name, site in sites.items():
        sharing = owners.get(id(site.module._parameters.get(site.local)), [])
        for module in (site.module, *(module for _, module, _ in sharing)):
            if isinstance(module, nn.Linear) and place[module] > last:
                last, classifier = place[module], name
    return (convs[0] if convs else None), classifier


def prunable_parameters(
    model: nn.Module, exclude: Collection[str] | None = None, include: Collection[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the weights to prune by parameter name, in model order; a shared one once.

    Those are the weights of convolutions (of any dimension, transposed too) and linear layers, the
    projections of MultiheadAttention, and transformers' Conv1D: see `sparsify`.
    exclude: parameter names to leave dense, or patterns of names such as "*.qkv.weight". None
    leaves out the first convolution and the classifier (the last Linear), as Liu et al. 2021
    (arXiv:2102.11068) and its group's configurations do; pass () to prune everything.
    include: names or patterns of what is pruned on request only: embeddings.

    Raises SparselthError when nothing is left, a name is not the model's, or a weight cannot have a
    mask and is not excluded (saying why).
    """
    return {name: site.parameter for name, site in prunable_sites(model, exclude, include).items()}


def prunable_sites(
    model: nn.Module, exclude: Collection[str] | None = None, include: Collection[str] = ()
) -> dict[str, Site]:
    """Return what `prunable_parameters` does with all that is known of each place."""
    check_model(model)
    sites = sites_of(model)
    if exclude is None:
        left_out = {name for name in first_and_last(model) if name is not None}
    else:
        left_out = _named(model, sites, exclude, "exclude")
    asked = _named(model, sites, include, "include")
    unknown = sorted(asked - set(sites))
    if unknown:
        raise SparselthError(f"include names {unknown}, which cannot have masks")
    chosen = {
        name: site
        for name, site in sites.items()
        if name not in left_out and (site.kind.by_default or name in asked)
    }
    refused = {name: site.refusal for name, site in chosen.items() if site.refusal}
    if refused:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        if len(refused) == len(chosen):
            raise SparselthError(f"{reasons}. Besides these no other weight is left to prune")
        names = sorted({*left_out, *refused})
        raise SparselthError(f"{reasons}. To leave what is dense out, pass exclude={names}")
    sharded = [name for name, site in chosen.items() if is_sharded(site.slot)]
    if sharded:
        raise SparselthError(
            f"{', '.join(sharded)}: sharded, and weights are ranked whole; find masks, and begin "
            "ADMM, before fully_shard"
        )
    if not chosen:
        raise SparselthError(
            "the model has no weight to prune: besides the first convolution and the classifier "
            "there is no Conv2d or Linear; pass exclude=() to prune those too (in a study, "
            "prune_first and prune_classifier)"
        )
    return chosen


def by_site(
    model: nn.Module, sites: Mapping[str, Site], sparsity: Sparsity | None
) -> Sparsity | None:
    """Return sparsities by the names of the places; a shared weight may be given by any of its.

    Raises SparselthError where two names of one weight have different sparsities.
    """
    if not isinstance(sparsity, Mapping):
        return sparsity
    names = site_names(model, sites)
    found: dict[str, float] = {}
    for name, share in sparsity.items():
        site = names.get(name, name)
        if found.setdefault(site, share) != share:
            raise SparselthError(
                f"{name!r} is {site!r} under another name, and there are two different sparsities "
                "for it; a shared weight has one"
            )
    return found


def _named(model: nn.Module, sites: dict[str, Site], given: Collection[str], what: str) -> set[str]:
    """Return the places that names and patterns stand for, a shared weight under its first name."""
    first = {name: several[0][0] for several in owners_of(model).values() for name, _, _ in several}
    first.update(site_names(model, sites))
    chosen, unknown = set(), []
    for one in check_names(what, given):
        matches = {first[name] for name in first if name == one or fnmatchcase(name, one)}
        chosen |= matches
        if not matches:
            unknown.append(one)
    if unknown:
        raise SparselthError(
            f"{what} names {sorted(unknown)}, but the model's Conv2d and Linear weights are "
            f"{sorted(name for name, site in sites.items() if site.kind.by_default)}"
        )
    return chosen
