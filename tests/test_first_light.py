"""The experiments of first light, tried where there is no GPU: in the interpreter, and compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparselth.ops.gpu.kernel import has_cuda_kernels

pytest.importorskip("triton", reason="the kernels are Triton's")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU they measure")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def tried(tmp_path):
    """Return a function that runs a script of the benchmarks: exit code, output, rows kept."""
    rows = tmp_path / "rows.jsonl"
    settings = {"SPARSELTH_BENCH_ROWS": str(rows), "PYTHONUNBUFFERED": "1"}

    def run(script, *words, interpret="1"):
        done = subprocess.run(
            [sys.executable, BENCHMARKS / script, *words],
            env=os.environ | settings | {"TRITON_INTERPRET": interpret},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        if "InterpreterError" in done.stdout:  # of triton 3.6 with numpy 2.4
            pytest.skip("triton's interpreter does not run here")
        kept = [json.loads(row) for row in rows.read_text().splitlines()] if rows.exists() else []
        return done.returncode, done.stdout, kept

    return run


def test_every_experiment_runs(tried):
    names = ["ceilings", "dense", "blocks", "scattered", "tma", "steps", "host", "lists"]
    if not has_cuda_kernels():
        names.remove("scattered")
    code, output, rows = tried("experiments.py", *names)
    assert code == 0, output
    assert output.rstrip().endswith("all measured, on small shapes without a GPU")
    kept = {row["op"] for row in rows}
    assert {"ceiling: copy", "dense, forward", "masked_conv2d, weight gradient"} <= kept
    assert {"forward by TMA", "training step", "eager layer, host's time", "masked_sgd_"} <= kept
    ours = [row for row in rows if row["op"].startswith("masked_conv2d") or "TMA" in row["op"]]
    assert all(row["ratios"] and 0 <= row["error"] < _most_error(row) for row in ours)
    assert {row["kernel"] for row in ours if "kernel" in row} >= {"blocks", "tma_blocks"}


def _most_error(row):
    return 1e-3 if "TMA" in row["op"] or row["kernel"] == "tma_blocks" else 1e-5  # 16 bits


def test_an_experiment_that_fails_is_one_line_and_the_next_one_runs(tried):
    code, output, rows = tried("experiments.py", "blocks", "ceilings", interpret="0")
    assert code == 1
    assert "blocks: SystemExit: no GPU: set TRITON_INTERPRET=1" in output.splitlines()[-1]
    assert {row["op"] for row in rows} >= {"ceiling: matmul"}
    code, output, _ = tried("experiments.py", "block")
    assert code == 2
    assert output.startswith("unknown: block; known: ceilings, dense")


def test_single_kernels_are_compared_with_their_oracles(tried):
    names = ["cuda_lists", "blocks", "tma_blocks", "triton_lists"]
    if has_cuda_kernels():
        names += ["halo_block", "column_vector", "unstructured"]
    code, output, _ = tried("single_kernels.py", *names)
    assert code == 0, output
    assert f"as their oracles: {', '.join(names)}" in output
