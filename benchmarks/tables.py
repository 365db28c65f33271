"""What benchmarks recorded, as Markdown. Needs nothing but Python."""

from __future__ import annotations

from typing import Any


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was recorded: a dict per benchmark, or as many as it lists in `rows`."""
    recorded = [b["extra_info"] for b in report["benchmarks"]]
    infos = [info for one in recorded for info in one.get("rows", [one])]
    return [info for info in infos if "ratios" in info or "parts" in info]


def table(found: list[dict[str, Any]]) -> str:
    """Render Markdown: one section per op and device, in it one table per ratio."""
    lines = []
    for op, device in dict.fromkeys((row["op"], row["device"]) for row in found):
        mine = [row for row in found if (row["op"], row["device"]) == (op, device)]
        lines += ["", f"### {op} ({device})"]
        for over in dict.fromkeys(over for row in mine for over in row.get("ratios", ())):
            lines += ["", f"× {over}:", "", *ratio_lines(mine, over)]
        for problem in dict.fromkeys(row["problem"] for row in mine if "parts" in row):
            profiles = [row for row in mine if row["problem"] == problem and "parts" in row]
            lines += ["", f"{problem}, ms:", "", *profile_lines(profiles)]
    return "\n".join([*lines, *left_out_lines(found)]).strip() + "\n"


def short_table(found: list[dict[str, Any]], characters: int) -> str:
    """Render ratios alone, for a screen: the main one of every op first, problems as measured.

    characters: how many the text may have; what does not fit is counted in its last line. Of the
    ops the one with the fewest problems comes first, so that it is not what does not fit.
    """
    ops = dict.fromkeys((row["op"], row["device"]) for row in found if row.get("ratios"))
    of_op = {
        op: [r for r in found if (r["op"], r["device"]) == op and r.get("ratios")] for op in ops
    }
    ratios = {
        op: list(dict.fromkeys(o for r in rs for o in r["ratios"])) for op, rs in of_op.items()
    }
    blocks = [
        (rank, _short_block(of_op[op], over)) for op in ops for rank, over in enumerate(ratios[op])
    ]
    blocks.sort(key=lambda block: (min(block[0], 1), len(block[1])))
    lines = [line for _, block in blocks for line in block]
    room, fitting = characters - len(f"... {len(lines)} more lines"), 0
    while fitting < len(lines) and room > len(lines[fitting]):
        room -= len(lines[fitting]) + 1
        fitting += 1
    left = len(lines) - fitting
    return "\n".join([*lines[:fitting], *([f"... {left} more lines"] if left else [])])


def _short_block(found: list[dict[str, Any]], over: str) -> list[str]:
    cells = {
        (r["problem"], r["sparsity"]): f"{r['ratios'][over]['ratio']:.2f}"
        for r in found
        if over in r["ratios"]
    }
    sparsities = sorted({sparsity for _, sparsity in cells})
    head = " ".join(f"{f'{100 * s:g}%':>6}" for s in sparsities)
    return [
        f"{found[0]['op']}, times {over}",
        f"{head}  problem",
        *(
            " ".join(f"{cells.get((problem, s), '-'):>6}" for s in sparsities) + f"  {problem}"
            for problem in dict.fromkeys(problem for problem, _ in cells)
        ),
    ]


def ratio_lines(found: list[dict[str, Any]], over: str) -> list[str]:
    """Render one ratio: a line per problem, a column per sparsity."""
    cells = {
        (r["problem"], r["sparsity"]): cell(r, over) for r in found if over in r.get("ratios", ())
    }
    problems = dict.fromkeys(problem for problem, _ in cells)
    sparsities = sorted({sparsity for _, sparsity in cells})
    wins = {problem: wins_from(found, over, problem) for problem in problems}
    return [
        *_head("problem", sparsities, *(["wins from"] if len(sparsities) > 2 else [])),
        *(
            f"| {problem} | "
            + " | ".join(cells.get((problem, s), "") for s in sparsities)
            + (f" | {wins[problem]} |" if len(sparsities) > 2 else " |")
            for problem in problems
        ),
    ]


def wins_from(found: list[dict[str, Any]], over: str, problem: str) -> str:
    """Say from which of the measured sparsities on the ratio is above 1; "never" if it is not."""
    measured = {
        r["sparsity"]: r["ratios"][over]["ratio"]
        for r in found
        if r["problem"] == problem and over in r.get("ratios", ())
    }
    first = None
    for sparsity in sorted(measured, reverse=True):
        if measured[sparsity] <= 1:
            break
        first = sparsity
    return "never" if first is None else f"{100 * first:g} %"


def profile_lines(profiles: list[dict[str, Any]]) -> list[str]:
    """Render one problem's profiles: a line per part, a column per sparsity."""
    profiles = sorted(profiles, key=lambda row: row["sparsity"])
    parts = dict.fromkeys(part for row in profiles for part in row["parts"])
    return [
        *_head("part", [row["sparsity"] for row in profiles]),
        *(
            f"| {part} | " + " | ".join(f"{r['parts'].get(part, 0):.2f}" for r in profiles) + " |"
            for part in parts
        ),
    ]


def _head(first: str, sparsities: list[float], *more: str) -> list[str]:
    columns = [*(f"{100 * s:g} %" for s in sparsities), *more]
    return [f"| {first} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]


def cell(row: dict[str, Any], over: str) -> str:
    """Render one measurement: ratio (ours / theirs)."""
    found = row["ratios"][over]
    return f"{found['ratio']:.2f}× ({found['ours']:.2f} / {found['theirs']:.2f} {row['unit']})"


def left_out_lines(found: list[dict[str, Any]]) -> list[str]:
    """Say which baselines were not measured, where and why."""
    where: dict[tuple[str, str], dict[str, None]] = {}
    for row in found:
        for name, reason in row.get("left_out", {}).items():
            where.setdefault((name, reason), {})[row["problem"]] = None
    if not where:
        return []
    lines = [f"- {name}: {reason} ({', '.join(w)})" for (name, reason), w in where.items()]
    return ["", "### Not measured", "", *lines]
