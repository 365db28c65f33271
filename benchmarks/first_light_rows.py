"""What the experiments of first light share: where they run, how they time, and what they keep.

Without a GPU they run on small shapes, once each, and their times mean nothing: to see that they
run at all before a GPU is there.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from gpu_timing import Call, graph_microseconds

DRY = not torch.cuda.is_available()
DEVICE = "cpu" if DRY else "cuda"
# The interpreter converts float32 alone as a GPU does.
DTYPE = torch.float32 if DRY else torch.bfloat16
HALF = torch.float16 if DRY else torch.bfloat16  # the interpreter does not round to bfloat16
LAST = torch.channels_last

# A file that gets a JSON object a line, as benchmarks/conftest.py writes it.
ROWS = os.environ.get("SPARSELTH_BENCH_ROWS")
BEGUN = time.monotonic()


def microseconds(call: Call, calls: int = 10) -> float:
    """Return the time of one call in a CUDA graph; without a GPU, of one that is called."""
    if not DRY:
        return graph_microseconds(call, calls)
    begun = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - begun)


def say(what: str, **facts: Any) -> None:
    """Print one line at once."""
    shown = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in facts.items())
    print(f"[{time.monotonic() - BEGUN:5.1f} s] {what}:", *shown, flush=True)


def keep(
    op: str, problem: str, sparsity: float, values: dict[str, float], over: str = "", **more: Any
) -> None:
    """Print a measurement, and keep it as the benchmarks keep theirs: with its ratio, if any.

    values: microseconds, or what `unit` says; "sparse" and "dense" make the ratio.  over: what
    dense is.
    """
    row = {"op": op, "device": DEVICE, "problem": problem, "sparsity": sparsity, "unit": "us"}
    row |= {"values": {name: round(value, 2) for name, value in values.items()}}
    if over:
        ours, theirs = values["sparse"], values["dense"]
        ratio = round(theirs / ours, 3)
        row["ratios"] = {over: {"ratio": ratio, "ours": ours, "theirs": theirs}}
        row["speedup"] = ratio
    row |= more
    say(op, problem=problem, sparsity=sparsity, **values, **more)
    if ROWS:
        with Path(ROWS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def kept(op: str, problem: str) -> dict[str, float] | None:
    """Return the values of a measurement that an earlier experiment kept; None if none did."""
    lines = (
        Path(ROWS).read_text(encoding="utf-8").splitlines() if ROWS and Path(ROWS).exists() else []
    )
    rows = [row for row in map(json.loads, lines) if (row["op"], row["problem"]) == (op, problem)]
    return rows[-1]["values"] if rows else None
