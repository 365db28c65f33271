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
    assert "tma failed" not in output
    assert output.rstrip().endswith("all measured, on small shapes without a GPU")
    kept = {row["op"] for row in rows}
    assert {"ceiling: copy", "dense, forward", "masked_conv2d, weight gradient"} <= kept
    assert {"forward by TMA", "training step", "eager layer, host's time", "masked_sgd_"} <= kept
    ours = [row for row in rows if row["op"].startswith("masked_conv2d") or "TMA" in row["op"]]
    assert all(row["ratios"] and 0 <= row["error"] < 1e-5 for row in ours)


def test_an_experiment_that_fails_is_one_line_and_the_next_one_runs(tried):
    code, output, rows = tried("experiments.py", "blocks", "ceilings", interpret="0")
    assert code == 1
    assert "blocks: SystemExit: no GPU: set TRITON_INTERPRET=1" in output.splitlines()[-1]
    assert {row["op"] for row in rows} >= {"ceiling: matmul"}
    code, output, _ = tried("experiments.py", "block")
    assert code == 2
    assert output.startswith("unknown: block; known: ceilings, dense")


def test_single_kernels_are_compared_with_their_oracles(tried):
    names = ["cuda_lists", "blocks", "triton_lists"]
    if has_cuda_kernels():
        names += ["halo_block", "column_vector", "unstructured"]
    code, output, _ = tried("single_kernels.py", *names)
    assert code == 0, output
    assert f"as their oracles: {', '.join(names)}" in output


COMPILED = """
import sys
import torch
from support.triton.compiling import compiled_for, instructions, resources
launches = compiled_for(90)
import tma_conv2d
from sparselth.kernels.blocks import find_blocks
mask = torch.ones(128, 128, 3, 3, dtype=torch.bool)
images = torch.empty(8, 128, 16, 16, dtype=torch.bfloat16)
images = images.contiguous(memory_format=torch.channels_last)
weight = torch.empty(mask.shape, dtype=torch.bfloat16)
index = find_blocks(mask, 1, 32)
for options in tma_conv2d.CONFIGURATIONS:
    tma_conv2d.masked_conv2d(images, weight, mask, index, 1, *options)
for kernel in launches.kernels.values():
    if kernel.metadata.name == "correlate_boxes":
        found, use = instructions(kernel), resources(kernel)
        print(found["UTMALDG"], found["HGMMA"], use.spilled, use.shared)
"""


def test_copies_by_the_accelerator_run_ahead_of_the_products(tmp_path):
    tests = Path(__file__).parent
    path = [tests, BENCHMARKS, tests.parent]
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    env["PYTHONPATH"] = os.pathsep.join(map(str, path))
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(found) == 3
    for copies, products, spilled, shared in found:
        assert copies > 2, "one turn's copies in the loop, the others before it"
        assert products > 0
        assert spilled == 0
        assert shared > 2 * 2 * 32 * (128 + 32), "several turns' pieces at a time"
