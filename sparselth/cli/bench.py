"""`sparselth bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from ..errors import SparselthError
from .shared import numbers, set_threads, show_warning


def bench(
    what: Annotated[str, typer.Argument(help="One of conv, linear, projection, optimizer, step.")],
    sparsities: Annotated[str | None, typer.Option(help="Such as 0.9,0.95.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for lists of weights.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves it to torch.")] = 0,
    seconds: Annotated[float, typer.Option(help="That each comparison takes, about.")] = 1.0,
    json: Annotated[
        Path | None, typer.Option("--json", help="Also write the results here.")
    ] = None,
) -> None:
    """Time the kernels against the best dense alternative of torch, in about half a minute."""
    from rich.progress import track

    from ..bench import cases, measure
    from ..bench.console import contention, facts, tables
    from ..checks import check_number
    from ..files import make_folder, write_json

    check_number("--seconds", seconds, above=0)
    shares = None if sparsities is None else numbers("--sparsities", sparsities)
    todo = cases(what, sparsities=shares, device=device)
    if json is not None:
        make_folder(json.parent, "the folder of --json")
        if json.exists() and not json.is_file():
            fault = "a folder; name a file in it" if json.is_dir() else "no regular file"
            raise SparselthError(f"--json {json} is {fault}")
    set_threads(threads)
    found = facts(" ".join(["sparselth", *sys.argv[1:]]))
    console, errors = Console(), Console(stderr=True)
    if busy := contention(found, torch.get_num_threads()):
        show_warning(busy)
    shown = track(todo, "measuring", console=errors, transient=True, disable=not errors.is_terminal)
    rows = [measure(case, seconds=seconds) for case in shown]
    shown_tables = list(tables(rows))
    # A line that is broken up is no table: let the terminal break it.
    wide = max(console.measure(table).maximum for table in shown_tables)
    console = Console(width=max(wide, console.width))
    console.print(
        f"{found['cpu']} ({found['simd']}), {torch.get_num_threads()} threads, GPU: "
        f"{found['gpu']}; torch {found['torch']}, {found['date']}",
        highlight=False,
    )
    for table in shown_tables:
        console.print()
        console.print(table, highlight=False)
    if json is not None:
        write_json(json, {**found, "results": rows})
