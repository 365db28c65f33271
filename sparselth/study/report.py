"""Print the result of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .overlaps import MAIN_P
from .protocols import LABELS
from .summary import mean_overlap, summary_rows


def print_report(summary: dict[str, Any], out_dir: Path, console: Console) -> None:
    """Print accuracies and overlaps, the measured speed, and where everything is."""
    console.print(_accuracies(summary))
    console.print(
        f"R {MAIN_P:g}: of the {100 * MAIN_P:g} % largest remaining weights, the share that this "
        f"start and the fine-tuned network have in common; {MAIN_P:g} is chance. The whole "
        f"initial network against the pre-trained one: {_dense_overlaps(summary)}.",
        highlight=False,
    )
    console.print(_times(summary))
    environment = summary["environment"]
    console.print(
        f"Measured on {environment['device']}, {environment['threads']} thread(s), kernels: "
        f"{environment['kernels']}.",
        highlight=False,
    )
    for row in summary["timing"]:
        gain = row["speedup_over_dense_masked"]
        verdict = f"{gain:.2f} x as fast as" if gain >= 1 else f"slower ({gain:.2f} x) than"
        console.print(
            f"At {100 * row['sparsity']:g} % sparsity, sparse training is {verdict} the same "
            "training done densely with masks.",
            highlight=False,
        )
    console.print(
        f"Plots: {out_dir}/accuracy.png, overlap.png, time.png. "
        f"Numbers: {out_dir}/summary.json, *.csv.",
        highlight=False,
        soft_wrap=True,
    )


def _accuracies(summary: dict[str, Any]) -> Table:
    config = summary["config"]
    table = Table(
        title=f"Test accuracy in %, {config['model']} on {config['data']}",
        box=box.SIMPLE,
        collapse_padding=True,
    )
    names = ["lr", "masks", "sparsity", "dense"]
    names += [LABELS.get(protocol, protocol) for protocol in config["protocols"]]
    names += [f"R {MAIN_P:g}\nticket", f"R {MAIN_P:g}\nre-init"]
    for name in names:
        table.add_column(name, justify="right")
    rows = {
        (r["learning_rate"], r["generator"], r["sparsity"], r["protocol"]): r
        for r in summary_rows(summary)
    }
    for rate in config["learning_rates"]:
        for generator in config["generators"]:
            for sparsity in config["sparsities"]:
                place = {"learning_rate": rate, "generator": generator, "sparsity": sparsity}
                table.add_row(
                    f"{rate:g}",
                    generator,
                    f"{100 * sparsity:g} %",
                    _accuracy(rows[rate, "", 0.0, "dense"]),
                    *(_accuracy(rows[rate, generator, sparsity, p]) for p in config["protocols"]),
                    _overlap(summary, "theta_0*m, (theta_T*m)_T", place),
                    _overlap(summary, "theta_0'*m, (theta_T*m)_T", place),
                )
        table.add_section()
    return table


def _times(summary: dict[str, Any]) -> Table:
    table = Table(title="Seconds per training epoch", box=box.SIMPLE, collapse_padding=True)
    for name in ("sparsity", "sparse", "dense with masks", "dense", "speed-up"):
        table.add_column(name, justify="right")
    for row in summary["timing"]:
        table.add_row(
            f"{100 * row['sparsity']:g} %",
            f"{row['sparse_seconds']:.3g}",
            f"{row['dense_masked_seconds']:.3g}",
            f"{row['dense_seconds']:.3g}",
            f"{row['speedup_over_dense_masked']:.2f} x",
        )
    return table


def _accuracy(row: dict[str, Any]) -> str:
    spread = f" ± {row['sd']:.1f}" if row["sd"] is not None else ""
    return f"{row['test_accuracy']:.1f}{spread}"


def _overlap(summary: dict[str, Any], pair: str, place: dict[str, Any]) -> str:
    value = mean_overlap(summary, pair, MAIN_P, "remaining", **place)
    return "" if value is None else f"{value:.3f}"


def _dense_overlaps(summary: dict[str, Any]) -> str:
    parts = []
    for rate in summary["config"]["learning_rates"]:
        value = mean_overlap(summary, "theta_0, theta_T", MAIN_P, "all", learning_rate=rate)
        parts.append(f"{value:.3f} at learning rate {rate:g}")
    return ", ".join(parts)
