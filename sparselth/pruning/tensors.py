"""Which tensors of a model are pruned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from ..checks import check_mapping, check_model, check_names
from ..deprecated import keyword_only
from ..errors import SparselthError
from ..nn.kinds import CONVOLUTIONS, Site, owners_of, site_names, sites_of
from ..ops.checks import check_sparsity
from ..ops.parameter_masks import is_sharded
from ..ops.transforms import has_values
from .allocation import Sparsity


def first_and_last(model: nn.Module) -> tuple[str | None, str | None]:
    """Return the parameter names of the first convolution's and of the classifier's weight.

    The classifier is the last Linear; None for one that the model lacks. These are what
    `prunable_parameters` excludes by default. A classifier that shares its weight with an embedding
    is named as the weight is, by its first name.

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


@keyword_only("exclude", "include")
def prunable_parameters(
    model: nn.Module, *, exclude: Collection[str] | None = None, include: Collection[str] = ()
) -> dict[str, nn.Parameter]:
    """Return the weights to prune by parameter name, in model order; a shared one once.

    Those are the weights of convolutions (of any dimension, transposed too) and linear layers, the
    projections of MultiheadAttention, and transformers' Conv1D: see `sparsify`.
    exclude: parameter names to leave dense, or patterns of names such as "*.qkv.weight". None
    leaves out the first convolution and the classifier (the last Linear), as Liu et al. 2021
    (arXiv:2102.11068; the classifier: its group's configurations) do; pass () to prune everything.
    include: names or patterns of what is pruned on request only: embeddings.

    Raises SparselthError when nothing is left, a name is not the model's, or a weight cannot have a
    mask and is not excluded (saying why).
    """
    sites, _ = sites_and_sparsity(model, None, exclude, include)
    return {name: site.parameter for name, site in sites.items()}


def sites_and_sparsity(
    model: nn.Module,
    sparsity: Sparsity | None,
    exclude: Collection[str] | None = None,
    include: Collection[str] = (),
) -> tuple[dict[str, Site], Sparsity | None]:
    """Return what is pruned, with all that is known of each place, and the sparsity by its names.

    sparsity: by names and patterns of names it says itself what is pruned, among what
    `prunable_parameters` returns and what it names.

    Raises SparselthError as `prunable_parameters` does, for a key that fits nothing, and where two
    names of one weight, or two patterns of one length, have different sparsities.
    """
    check_model(model)
    sites = sites_of(model)
    fitting: dict[str, list[str]] = {}
    shares: dict[str, tuple[str, float]] = {}
    if isinstance(sparsity, Mapping):
        check_mapping("sparsity", sparsity, "parameter names, or patterns of them, to shares")
        fitting = _places(model, sites, sparsity, "sparsity")
        sparsity = {key: _share(key, value) for key, value in sparsity.items()}
        shares = _by_site(sparsity, fitting)
    named = {name for name, (key, _) in shares.items() if not _is_pattern(key)}
    if exclude is None:
        left_out = {name for name in first_and_last(model) if name is not None} - named
    else:
        left_out = _named(model, sites, exclude, "exclude")
    if both := sorted(left_out & named):
        raise SparselthError(f"{', '.join(both)}: named by sparsity and by exclude; take one")
    included = _named(model, sites, include, "include")
    for what, places in (("sparsity", named), ("include", included)):
        if unknown := sorted(places - set(sites)):
            raise SparselthError(f"{what} names {unknown}, which cannot have masks")
    included |= named
    chosen = {
        name: site
        for name, site in sites.items()
        if name not in left_out and (site.kind.by_default or name in included)
    }
    if isinstance(sparsity, Mapping):
        _check_used(fitting, chosen)
        chosen = {name: site for name, site in chosen.items() if name in shares}
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
    if not isinstance(sparsity, Mapping):
        return chosen, sparsity
    return chosen, {name: shares[name][1] for name in chosen}


def _share(key: str, value: Any) -> float:
    try:
        return check_sparsity(value)
    except SparselthError as error:
        raise SparselthError(f"{key}: {error}") from None


def _is_pattern(key: str) -> bool:
    return any(sign in key for sign in "*?[")


def _by_site(
    sparsity: Mapping[str, float], fitting: Mapping[str, Collection[str]]
) -> dict[str, tuple[str, float]]:
    """Return the key and the share that go for each place.  fitting: key -> the places it fits."""
    shares = {}
    for site in dict.fromkeys(site for sites in fitting.values() for site in sites):
        keys = [key for key in sparsity if site in fitting[key]]
        best = max(map(_precision, keys))
        first, *others = [key for key in keys if _precision(key) == best]
        for other in others:
            if sparsity[other] != sparsity[first]:
                raise SparselthError(
                    f"{site!r} has two different sparsities, by {first!r} and by {other!r}; a "
                    "weight, shared or not, has one"
                )
        shares[site] = (first, sparsity[first])
    return shares


def _precision(key: str) -> tuple[bool, int]:
    """Order keys: names before patterns, and among patterns those that say more."""
    if not _is_pattern(key):
        return True, 0
    return False, len(key) - sum(map(key.count, "*?"))


def _check_used(fitting: Mapping[str, Collection[str]], chosen: Mapping[str, Site]) -> None:
    """Refuse a sparsity that nothing would be pruned by."""
    for key, sites in fitting.items():
        if sites and not any(site in chosen for site in sites):
            raise SparselthError(
                f"sparsity names {key!r}, which fits only what is left out, {', '.join(sites)}; "
                "name the layer itself, or change exclude"
            )
    if not any(fitting.values()):
        raise SparselthError(
            f"sparsity names no layer; its keys are names or patterns of {sorted(chosen)}"
        )


def _places(
    model: nn.Module, sites: Mapping[str, Site], names: Iterable[str], what: str
) -> dict[str, list[str]]:
    """Return the places that each name or pattern stands for, a shared weight by its first name."""
    first = {name: several[0][0] for several in owners_of(model).values() for name, _, _ in several}
    first.update(site_names(model, sites))
    fitting = {
        one: list(dict.fromkeys(first[n] for n in first if n == one or fnmatchcase(n, one)))
        for one in names
    }
    unknown = [one for one, places in fitting.items() if not places]
    if unknown:
        inside = next(
            (f"{one}.*" for one in unknown if any(n.startswith(f"{one}.") for n in first)), ""
        )
        hint = f"; did you mean {inside!r}?" if inside else ""
        raise SparselthError(
            f"{what} names {sorted(unknown)}, but the model's Conv2d and Linear weights are "
            f"{sorted(name for name, site in sites.items() if site.kind.by_default)}{hint}"
        )
    return fitting


def layer_of(model: nn.Module, weight: str) -> Any:
    """Return the layer that has a weight, by the weight's name."""
    return model.get_submodule(weight.rpartition(".")[0])


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Refuse parameters or buffers without values, by their names.

    Raises SparselthError naming the first that lies on the meta device.
    """
    away = next((name for name, tensor in tensors.items() if not has_values(tensor)), None)
    if away is not None:
        raise SparselthError(
            f"{away} lies on the meta device, without values; give the model its weights first, by "
            'model.to_empty(device="cpu") and load_state_dict'
        )


def kept_dense(model: nn.Module, exclude: Collection[str]) -> set[str]:
    """Return the weights that names and patterns to exclude stand for."""
    return _named(model, sites_of(model), exclude, "exclude")


def _named(model: nn.Module, sites: Mapping[str, Site], names: Any, what: str) -> set[str]:
    return {
        place
        for places in _places(model, sites, check_names(what, names), what).values()
        for place in places
    }
