"""Print the result of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..analysis.expected import beside_the_paper
from ..analysis.overlaps import DENSE_PAIR, REINIT_PAIR, TICKET_PAIR
from ..analysis.tables import accuracy_rows, mean_overlap
from ..plan.percentages import MAIN_P
from ..plan.protocols import LABELS, PROTOCOLS
from .document import Setting, accuracy_text, percent, settings


def print_report(summary: dict[str, Any], out_dir: Path, console: Console) -> None:
    """Print accuracies and overlaps, the claims, the measured speed, and where everything is."""
    for setting in settings(summary):
        console.print(_accuracies(summary, setting))
        _say(console, _overlaps_in_words(summary, setting))
    console.print(_claims(summary))
    if rows := beside_the_paper(summary):
        console.print(_paper(rows))
    if summary["timing"]:
        console.print(_times(summary))
        _speed_in_words(summary, console)
    _tell_failures(summary, console)
    _say(console, f"Report: {out_dir}/report.html. Numbers: {out_dir}/summary.json, *.csv.")


def _tell_failures(summary: dict[str, Any], console: Console) -> None:
    tried = [failure for failure in summary["failures"] if failure["tried"]]
    for failure in tried:
        _say(console, f"FAILED {failure['label']}: {failure['error']}")
    if others := len(summary["failures"]) - len(tried):
        _say(console, f"{others} more parts were not run, as they need what failed.")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _table(title: str, *columns: str, justify: str = "right") -> Table:
    table = Table(title=title, box=box.SIMPLE, collapse_padding=True)
    for column in columns:
        table.add_column(column, justify="left" if justify == "left" else "right")
    return table


def _accuracies(summary: dict[str, Any], setting: Setting) -> Table:
    config = summary["config"]
    protocols = config["protocols"]
    table = _table(
        f"Test accuracy in %, {setting['model']} on {setting['data']}",
        *("lr", "masks", "sparsity", "dense"),
        *(LABELS[protocol] for protocol in protocols),
        *(f"R {MAIN_P:g}\nticket", f"R {MAIN_P:g}\nre-init"),
    )
    rows = {
        (r["learning_rate"], r["generator"], r["sparsity"], r["protocol"]): r
        for r in accuracy_rows(summary)
        if (r["model"], r["data"]) == (setting["model"], setting["data"])
    }
    for rate in config["learning_rates"]:
        for generator in config["generators"]:
            for sparsity in config["sparsities"]:
                place = setting | {"learning_rate": rate, "generator": generator}
                place["sparsity"] = sparsity
                masks = {p: generator if PROTOCOLS[p].masked else "" for p in protocols}
                table.add_row(
                    f"{rate:g}",
                    generator,
                    percent(sparsity),
                    accuracy_text(rows.get((rate, "", 0.0, "dense"))),
                    *(accuracy_text(rows.get((rate, masks[p], sparsity, p))) for p in protocols),
                    _overlap(summary, TICKET_PAIR, place),
                    _overlap(summary, REINIT_PAIR, place),
                )
        table.add_section()
    return table


def _overlap(summary: dict[str, Any], pair: str, place: dict[str, Any]) -> str:
    value = mean_overlap(summary, pair, MAIN_P, "remaining", **place)
    return "" if value is None else f"{value:.3f}"


def _overlaps_in_words(summary: dict[str, Any], setting: Setting) -> str:
    parts = []
    for rate in summary["config"]["learning_rates"]:
        value = mean_overlap(summary, DENSE_PAIR, MAIN_P, "all", learning_rate=rate, **setting)
        if value is not None:
            parts.append(f"{value:.3f} at learning rate {rate:g}")
    return (
        f"R {MAIN_P:g}: of the {100 * MAIN_P:g} % largest remaining weights, the share that this "
        f"start and the fine-tuned network have in common; {MAIN_P:g} is chance. The whole "
        f"initial network against the pre-trained one: {', '.join(parts)}."
    )


def _claims(summary: dict[str, Any]) -> Table:
    table = _table("The paper's claims", "", "it says", "here", "measured", justify="left")
    for row in summary["claims"]:
        table.add_row(f"({row['letter']})", row["statement"], row["verdict"], row["measured"])
    return table


def _paper(rows: list[dict[str, Any]]) -> Table:
    table = _table("Beside the paper's numbers", "", "what", "paper", "here", justify="left")
    for row in rows:
        here = "not in this study" if row["measured"] is None else f"{row['measured']:.4g}"
        setting = f"{row['model']} on {row['data']}"
        table.add_row(setting, row["what"], f"{row['paper']:g}", here)
    return table


def _times(summary: dict[str, Any]) -> Table:
    columns = ("model", "data", "sparsity", "sparse", "dense with masks", "dense", "speed-up")
    table = _table("Seconds per training epoch", *columns)
    for row in summary["timing"]:
        table.add_row(
            row["model"],
            row["data"],
            percent(row["sparsity"]),
            f"{row['sparse_seconds']:.3g}",
            f"{row['dense_masked_seconds']:.3g}",
            f"{row['dense_seconds']:.3g}",
            f"{row['speedup_over_dense_masked']:.2f} x",
        )
    return table


def _speed_in_words(summary: dict[str, Any], console: Console) -> None:
    environment = summary["environment"]
    _say(
        console,
        f"Measured on {environment['device']}, {environment['threads']} thread(s), kernels: "
        f"{environment['kernels']}.",
    )
    for row in summary["timing"]:
        gain = row["speedup_over_dense_masked"]
        verdict = f"{gain:.2f} x as fast as" if gain >= 1 else f"slower ({gain:.2f} x) than"
        _say(
            console,
            f"At {percent(row['sparsity'])} sparsity, sparse training is {verdict} the same "
            "training done densely with masks.",
        )
