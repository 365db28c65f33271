"""The sections of a report, from the summary of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ..analysis.expected import beside_the_paper
from ..analysis.intervals import UNCLEAR
from ..analysis.overlaps import MASKED_PAIRS
from ..analysis.tables import accuracy_rows, cost_rows, kind_label, mean_overlap
from ..plan.percentages import MAIN_P
from ..plan.protocols import LABELS, PROTOCOLS, STARTS, compared
from .document import (
    Picture,
    Section,
    Setting,
    Table,
    accuracy_text,
    interval_text,
    percent,
    settings,
)
from .masks import masks
from .sanity import sanity

_PLACE = ["model", "data", "lr", "masks", "sparsity"]


def sections(summary: Mapping[str, Any], pictures: Mapping[str, str]) -> list[Section]:
    """Return those that have something to say. pictures: file name -> what it shows, in order."""
    possible = [
        _failures(summary),
        _claims(summary),
        _paper(summary),
        _accuracies(summary, pictures),
        _winning(summary),
        _conditions(summary),
        sanity(summary),
        _differences(summary, pictures),
        _overlaps(summary, pictures),
        _speed(summary, pictures),
        masks(summary),
        _configuration(summary),
    ]
    return [section for section in possible if section.text or section.blocks]


def _failures(summary: Mapping[str, Any]) -> Section:
    rows = [[failure["label"], failure["error"]] for failure in summary["failures"]]
    if not rows:
        return Section("Failed")
    text = "These parts have no result, and what is below lacks them. The same command tries again."
    return Section("Failed", [text], [Table(["part", "why"], rows)])


def _claims(summary: Mapping[str, Any]) -> Section:
    tables = []
    for setting in settings(summary):
        rows = [
            [f"({row['letter']})", row["statement"], row["verdict"], row["measured"]]
            for row in summary["claims"]
            if _fits(row, setting)
        ]
        tables.append(Table(["", "the paper says", "here", "measured"], rows, _name(setting)))
    confidence = 100 * summary["config"]["thresholds"]["confidence"]
    text = (
        f"In brackets the {confidence:g} % confidence interval over seeds. “{UNCLEAR}” means that "
        "the interval holds both answers."
    )
    return Section("The paper's claims", [text], [*tables])


def _paper(summary: Mapping[str, Any]) -> Section:
    rows = beside_the_paper(dict(summary))
    if not rows:
        return Section("Beside the paper's numbers")
    table = [
        [f"{row['model']} on {row['data']}", row["what"], f"{row['paper']:g}", _measured(row)]
        for row in rows
    ]
    text = f"The paper trained for 150 epochs, this study for {summary['config']['epochs']}."
    headers = ["", "what", "paper", "here"]
    return Section("Beside the paper's numbers", [text], [Table(headers, table)])


def _measured(row: Mapping[str, Any]) -> str:
    if row["measured"] is None:
        return "not in this study"
    digits = 4 if row["paper"] <= 1 else 2
    text = f"{row['measured']:.{digits}f}"
    if row["low"] is None:
        return text
    return f"{text} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def _accuracies(summary: Mapping[str, Any], pictures: Mapping[str, str]) -> Section:
    protocols = summary["config"]["protocols"]
    rows = accuracy_rows(dict(summary))
    tables = [_accuracy_table(summary, setting, rows) for setting in settings(summary)]
    text = "Test accuracy in percent after the last epoch, mean and standard deviation of seeds."
    legend = [
        [
            PROTOCOLS[name].label,
            STARTS[PROTOCOLS[name].start],
            _terms(name, summary["config"]["recipes"].get(name, {})),
        ]
        for name in protocols
    ]
    headers = ["protocol", "starts from", "how it trains"]
    tables.append(Table(headers, legend, "Protocols"))
    small = [
        [row["model"], row["data"], percent(row["sparsity"])]
        + [f"{row[name]:,}" for name in ("parameters", "masked_parameters")]
        + [f"{row['parameters'] / row['masked_parameters']:.3f}"]
        for row in summary["small_dense"]
    ]
    if small:
        headers = ["model", "data", "sparsity", "parameters", "of the masked network", "ratio"]
        tables.append(Table(headers, small, "Small dense networks"))
    return Section("Accuracy", [text], [*_pictures(pictures, "accuracy"), *tables])


def _terms(protocol: str, own: Mapping[str, Any]) -> str:
    """Say how a protocol trains. own: the settings that are its own."""
    shared = PROTOCOLS[protocol].differs or "for the same epochs on the same schedule"
    settings = ", ".join(f"{name} {_value(value)}" for name, value in own.items())
    return f"{shared}, with {settings}" if own else shared


def _accuracy_table(
    summary: Mapping[str, Any], setting: Setting, rows: list[dict[str, Any]]
) -> Table:
    config = summary["config"]
    by_place = {
        (r["learning_rate"], r["generator"], r["sparsity"], r["protocol"]): r
        for r in rows
        if _fits(r, setting)
    }
    body = []
    for rate in config["learning_rates"]:
        for generator in config["generators"]:
            for sparsity in config["sparsities"]:
                cells = [by_place.get((rate, "", 0.0, "dense"))]
                for protocol in config["protocols"]:
                    masked = generator if PROTOCOLS[protocol].masked else ""
                    cells.append(by_place.get((rate, masked, sparsity, protocol)))
                texts = [accuracy_text(cell) for cell in cells]
                body.append([f"{rate:g}", generator, percent(sparsity), *texts])
    labels = [LABELS[protocol] for protocol in config["protocols"]]
    return Table(["lr", "masks", "sparsity", "dense", *labels], body, _name(setting))


def _winning(summary: Mapping[str, Any]) -> Section:
    rows = [
        [*_place(row), *(row[name] for name in ("nontrivial", "similar", "gap", "winning"))]
        for row in summary["winning"]
    ]
    thresholds = summary["config"]["thresholds"]
    text = (
        "A winning ticket trains to an accuracy similar to dense (no more than "
        f"{thresholds['similar']:g} points below; "
        + ", ".join(f"{value:g} on {name}" for name, value in thresholds["similar_on"].items())
        + f"), is above the re-initialization by more than {thresholds['gap']:g} points, at a "
        f"sparsity of {percent(thresholds['sparsity'])} or more."
    )
    headers = [*_PLACE, "not trivial", "similar", "gap", "wins"]
    return Section("Winning tickets", [text], [Table(headers, rows)])


def _conditions(summary: Mapping[str, Any]) -> Section:
    rows = [
        [row["model"], row["data"], row["generator"], percent(row["sparsity"])]
        + [row[f"condition_{i}"] for i in range(1, 6)]
        + [row["prize"]]
        for row in summary["conditions"]
    ]
    text = (
        "1: the sparsity is not trivial and dense training has settled. 2: the ticket is clearly "
        "above a small dense network of as many parameters. 3: at some learning rate it is clearly "
        "above the re-initialization at any. 4: at some rate it is similar to dense at that rate. "
        "5: at some rate it is similar to dense at dense's best. All five make a Jackpot winning "
        "ticket, the first four a secondary prize (Ma et al. 2021, arXiv:2107.00166)."
    )
    headers = ["model", "data", "masks", "sparsity", "1", "2", "3", "4", "5", "prize"]
    return Section("Jackpot or secondary prize", [text], [Table(headers, rows)])


def _differences(summary: Mapping[str, Any], pictures: Mapping[str, str]) -> Section:
    rows = [
        [
            *_place(row),
            f"{LABELS[row['first']]} - {LABELS[row['second']]}",
            f"{row['mean']:+.2f}",
            interval_text(row),
            str(row["seeds"]),
        ]
        for row in summary["differences"]
    ]
    equal = ", ".join(LABELS[name] for name in compared(summary["config"]["protocols"]))
    text = f"In points, paired by seed. On equal terms: {equal}."
    headers = [*_PLACE, "difference", "mean", "interval", "seeds"]
    return Section(
        "Differences", [text], [*_pictures(pictures, "difference"), Table(headers, rows)]
    )


def _overlaps(summary: Mapping[str, Any], pictures: Mapping[str, str]) -> Section:
    text = [
        f"R_p is the share of the p largest weights of each layer that two networks have in "
        f"common: p by chance. Below for p = {MAIN_P:g} of the remaining weights, mean of seeds. "
        "theta_0 and theta_0' are the two initializations, theta_T the pre-trained network, m the "
        "mask, (...)_T the network after training."
    ]
    pairs = [p for p in MASKED_PAIRS if any(row["pair"] == p for row in summary["overlaps"])]
    config, body = summary["config"], []
    for setting in settings(summary):
        for rate in config["learning_rates"]:
            for generator in config["generators"]:
                for sparsity in config["sparsities"]:
                    place = setting | {"learning_rate": rate, "generator": generator}
                    place["sparsity"] = sparsity
                    values = [
                        mean_overlap(dict(summary), pair, MAIN_P, "remaining", **place)
                        for pair in pairs
                    ]
                    texts = ["" if value is None else f"{value:.3f}" for value in values]
                    body.append([*_place(place), *texts])
    tables = [Table([*_PLACE, *pairs], body)] if pairs else []
    return Section("Weight correlation", text, [*_pictures(pictures, "overlap"), *tables])


def _speed(summary: Mapping[str, Any], pictures: Mapping[str, str]) -> Section:
    environment = summary["environment"]
    text = [
        f"Measured on {environment['device']}, {environment['threads']} thread(s), kernels: "
        f"{environment['kernels']}. Against dense with the masks multiplied in after every step, "
        "and against dense without masks; medians of rounds in turn, nothing else running."
    ]
    timing = [
        [row["model"], row["data"], percent(row["sparsity"])]
        + [f"{row[f'{name}_seconds']:.3g}" for name in ("sparse", "dense_masked", "dense")]
        + [f"{row['speedup_over_dense_masked']:.2f} x", f"{row['speedup_over_dense']:.2f} x"]
        for row in summary["timing"]
    ]
    cost = [
        [
            *(row["model"], row["data"], kind_label(row["kind"]), str(row["trainings"])),
            *(f"{row[name]:.3g}" for name in ("seconds_per_epoch", "seconds", "total_hours")),
            "" if row["against_dense"] is None else f"{row['against_dense']:.2f} x",
        ]
        for row in cost_rows(dict(summary))
    ]
    headers = ["model", "data", "sparsity", "sparse", "dense, masked", "dense"]
    headers += ["over masked", "over dense"]
    spent = ["model", "data", "training", "number", "s per epoch", "s each", "hours in all"]
    spent += ["dense's epoch over this"]
    tables = [
        Table(headers, timing, "Seconds per training epoch"),
        Table(spent, cost, "Wall-clock of the study as it ran"),
    ]
    return Section("Speed", text, [*_pictures(pictures, "time"), *tables])


def _configuration(summary: Mapping[str, Any]) -> Section:
    rows = [[name, _value(value)] for name, value in summary["config"].items()]
    here = [[name, _value(value)] for name, value in summary["environment"].items()]
    headers = ["setting", "value"]
    return Section(
        "Configuration and environment",
        [],
        [Table(headers, rows, "Configuration"), Table(headers, here, "Environment")],
    )


def _value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _pictures(pictures: Mapping[str, str], kind: str) -> Iterator[Picture]:
    return (Picture(name, alt) for name, alt in pictures.items() if name.startswith(kind))


def _place(row: Mapping[str, Any]) -> list[str]:
    """Return the cells that say where in the grid a row belongs; `_PLACE` are their headers."""
    rate = f"{row['learning_rate']:g}"
    return [row["model"], row["data"], rate, row["generator"], percent(row["sparsity"])]


def _fits(row: Mapping[str, Any], setting: Setting) -> bool:
    return all(row[name] == value for name, value in setting.items())


def _name(setting: Setting) -> str:
    return f"{setting['model']} on {setting['data']}"
