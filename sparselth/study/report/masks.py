"""The section of a report about the masks: what each search reached, and where it fell short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .document import Section, Table, percent

# Of |W - Z| / |W|, for the reader; 1 to 5 % is what converged runs of ADMM are said to end with.
_CONVERGED = 0.05


def masks(summary: Mapping[str, Any]) -> Section:
    rows = []
    for mask in summary["masks"]:
        start = [mask["model"], mask["data"], f"{mask['learning_rate']:g}", str(mask["seed"])]
        sparsest = max(mask["layers"], key=lambda layer: layer["sparsity"])
        densest = min(mask["layers"], key=lambda layer: layer["sparsity"])
        rows.append(
            [*start, mask["generator"], percent(mask["sparsity"])]
            + [f"{100 * mask['measured_sparsity']:.2f} %"]
            + [f"{layer['layer']} {100 * layer['sparsity']:.1f} %" for layer in (densest, sparsest)]
            + [", ".join(_unreached(layer) for layer in mask["unreached"]) or "none"]
            + [_search(mask)]
        )
    headers = ["model", "data", "lr", "seed", "masks", "asked", "reached", "densest layer"]
    headers += ["sparsest layer", "one weight kept", "the search"]
    text = (
        "The last column is what a search with a training of its own says of itself: after how "
        "many epochs the early bird's masks stayed the same, what edge-popup's network reaches "
        "without a weight trained, and |W - Z| / |W|, how much of the network ADMM's final cut "
        f"removed. More than {_CONVERGED:g} is marked as not converged: a longer search, or a "
        "larger rho, would cut less."
    )
    return Section("Masks", [text], [Table(headers, rows)]) if rows else Section("Masks")


def _search(mask: Mapping[str, Any]) -> str:
    if "epochs" in mask:
        return f"{mask['epochs']:g} epochs"
    if "accuracy" in mask:
        return f"{mask['accuracy']:.1f} % untrained"
    residual = mask.get("relative_residual")
    if residual is None:
        return ""
    return f"{residual:.3f}" + (", not converged" if residual > _CONVERGED else "")


def _unreached(layer: Mapping[str, Any]) -> str:
    """Say of a layer what was asked, and what its few weights allow."""
    asked, reached = (f"{100 * layer[name]:.4g} %" for name in ("asked", "reached"))
    return f"{layer['layer']}: {asked} asked, {reached} reached ({layer['weights']} weights)"
