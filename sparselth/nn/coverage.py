"""How much of a model masks cover, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..checks import check_model, check_names
from .kinds import Site, adapters_of, masked_modules, owners_of, sites_of


@dataclass(frozen=True)
class Coverage:
    """How much of a model masks cover; printed, it is a sentence.

    covered, total: entries of weights, that is of parameters with two dimensions or more.
    left_out: name -> why, of every weight without a mask.
    """

    covered: int
    total: int
    left_out: dict[str, str]

    @property
    def share(self) -> float:
        """Share of the weights that have a mask, a fraction in [0, 1]."""
        return self.covered / self.total if self.total else 0.0

    def __str__(self) -> str:
        text = f"masks cover {self.covered:,} of {self.total:,} weights ({self.share:.1%})"
        if self.left_out:
            named = [f"{name} ({why})" for name, why in self.left_out.items()]
            more = f", and {len(named) - 8} more" if len(named) > 8 else ""
            text += f"; left out: {', '.join(named[:8])}{more}"
        return text


def coverage(model: nn.Module, names: Iterable[str] | None = None) -> Coverage:
    """Say what share of a model's weights masks cover, and what is left out.

    names: of the parameters with masks, such as the keys of `find_masks`'s result; None asks a
    model that `sparsify` made sparse.
    Returns a `Coverage`. Biases and norms do not count: they have one dimension.

    Raises SparselthError for what is no model, or are no names.
    """
    check_model(model)
    if names is not None:
        names = check_names("names", names)
    if names is None:
        names = mask_names(model)
    covered_names = set(names)
    sites = sites_of(model)
    owners, adapters = owners_of(model), adapters_of(model)
    covered = total = 0
    left_out: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        total += parameter.numel()
        several = owners[id(parameter)]
        if any(other in covered_names for other, _, _ in several):
            covered += parameter.numel()
        else:
            left_out[name] = _why_left_out(sites, name, several[0][1], adapters)
    return Coverage(covered, total, left_out)


def _why_left_out(
    sites: dict[str, Site], name: str, module: nn.Module, adapters: set[nn.Module]
) -> str:
    if module in adapters:
        return "an adapter, trained beside a layer"
    site = sites.get(name)
    if site is None:
        # What a weight is computed from, of a place that could only be excluded.
        paths = [s.name.removesuffix(s.local) for s in sites.values() if s.refusal]
        if any(name.startswith(path) for path in paths):
            return "excluded"
        return f"a parameter of {type(module).__name__}, which masks do not go on"
    if site.refusal:
        return site.refusal
    return "excluded" if site.kind.by_default else "on request, with include"


def mask_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters with masks, a shared one under each of its names."""
    return [
        f"{path}.{local}" if path else local
        for path, module in masked_modules(model)
        for local in module.masks()
    ]
