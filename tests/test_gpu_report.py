"""The report of a GPU: that its baselines are true, and that what it measures is kept."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import sys
from pathlib import Path

import bench_masked_conv2d_gpu
import gpu_report
import gpu_timing
import pytest
import tables
import torch
from parts import Part

from sparselth.bench.ratios import Ratio, evaluate

ROOT = Path(__file__).parent.parent
SOURCES = ("benchmarks", "examples", "kernels", "sparselth", "tests")


def python(name: str, code: str, *arguments: str, limit_s: float = 60, **more) -> Part:
    return Part(name, [sys.executable, "-c", code, *arguments], limit_s, **more)


def without_enabled(path: Path) -> list[int]:
    """List the lines of a file that call cudnn.flags, whose `enabled` is False unless given."""
    calls = (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call))
    return [
        call.lineno
        for call in calls
        if ast.unparse(call.func).endswith("cudnn.flags")
        and "enabled" not in {keyword.arg for keyword in call.keywords}
    ]


def test_nothing_switches_cudnn_off_unawares():
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): without_enabled(path) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_dense_baseline_has_cudnn(monkeypatch):
    monkeypatch.setattr(gpu_timing, "milliseconds", lambda call: call())
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)

    def seen():
        return torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark

    with gpu_timing.cudnn():
        assert gpu_timing.dense_milliseconds(seen) == (True, True)
    with (
        torch.backends.cudnn.flags(enabled=False),
        pytest.raises(AssertionError, match="cuDNN is switched off, and dense is about to be"),
    ):
        gpu_timing.dense_milliseconds(seen)


def test_what_says_most_is_measured_first():
    cases = bench_masked_conv2d_gpu.CASES
    first = [(dtype, pattern) for dtype, pattern, layer in cases[:18]]
    assert first == [("bf16", name) for name in ("32x32", "16x1", "element") for _ in range(6)]
    assert all(layer.channels >= 128 for *_, layer in cases[:18])
    assert bench_masked_conv2d_gpu.SPARSITIES == (0.5, 0.9, 0.95, 0.98)


def row(problem: str, sparsity: float, op: str = "conv") -> dict:
    ratios = (Ratio("dense", ("dense",)), Ratio("tf32", ("tf32",)))
    values = {"sparse": 2.0, "dense": 5.0, "tf32": 7.0}
    found = {"op": op, "device": "cuda", "problem": problem, "sparsity": sparsity, "unit": "ms"}
    return found | {"values": values, "ratios": evaluate(values, ratios)}


def test_a_short_table_has_the_main_ratios_first():
    rows = [row("N1", 0.9), row("N1", 0.5), row("N2", 0.5), row("step", 0.9, "training step")]
    assert tables.short_table(rows, 1000).splitlines() == [
        *("training step, times dense", "   90%  problem", "  2.50  step"),
        *("conv, times dense", "   50%    90%  problem"),
        *("  2.50   2.50  N1", "  2.50      -  N2"),
        *("training step, times tf32", "   90%  problem", "  3.50  step"),
        *("conv, times tf32", "   50%    90%  problem"),
        *("  3.50   3.50  N1", "  3.50      -  N2"),
    ]
    many = [row(f"layer {i}", 0.5) for i in range(100)]
    for characters in (60, 500, 1001):
        text = tables.short_table(many, characters)
        assert len(text) <= characters
        assert text.endswith(f"... {204 - text.count(chr(10))} more lines")
    assert tables.short_table([], 100) == ""


@pytest.fixture
def report(monkeypatch, tmp_path):
    """Return the report's module, its folders in `tmp_path`, and its parts two short ones."""
    out, build = tmp_path / "out", tmp_path / "build"
    for name, path in {
        "OUT": out,
        "BUILD": build,
        "RESULTS": tmp_path / "results",
        "LOG": out / "gpu-report.log",
        "ROWS": out / "gpu-report-rows.jsonl",
        "MACHINE": build / "machine.json",
    }.items():
        monkeypatch.setattr(gpu_report, name, path)
    monkeypatch.setattr(gpu_report, "link_kernels", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py"])
    machine = "import sys; open(sys.argv[1], 'w').write('{\"device\": \"NVIDIA H100\"}')"
    measuring = "import sys; open(sys.argv[1], 'a').write(sys.argv[2]); raise SystemExit(1)"
    cut = json.dumps(row("N1", 0.9)) + '\n{"op": "conv", "dev'
    todo = [
        python("machine", machine, str(gpu_report.MACHINE)),
        python("convolutions, measured", measuring, str(gpu_report.ROWS), cut),
    ]
    monkeypatch.setattr(gpu_report, "parts", lambda built: todo)
    return gpu_report


def test_the_report_writes_after_every_part_and_prints_its_table_last(
    report, tmp_path, monkeypatch, capsys
):
    written, write = [], report.write

    def count(steps):
        write(steps)
        written.append(json.loads((report.OUT / "gpu-report.json").read_text())["parts"])

    monkeypatch.setattr(report, "write", count)
    assert report.main() == 1
    assert [[p["status"] for p in steps] for steps in written] == [
        ["ok", "not run"],
        ["ok", "failed (1)"],
    ]
    assert (
        capsys.readouterr()
        .out.rstrip()
        .endswith("  2.50  N1\nconv, times tf32\n   90%  problem\n  3.50  N1")
    )
    assert sorted(path.name for path in report.OUT.iterdir()) == [
        *("gpu-report-rows.jsonl", "gpu-report.json", "gpu-report.log", "gpu-report.md")
    ]
    (kept,) = (tmp_path / "results").glob("nvidia-h100-*.json")
    found = json.loads(kept.read_text())
    assert [r["problem"] for r in found["measured"]] == ["N1"]
    assert found["parts"][0]["command"][0] == "python"


def test_without_a_gpu_nothing_is_kept_among_the_results(report, tmp_path):
    report.parts(built=False)[0].command[2] = (
        "import sys; open(sys.argv[1], 'w').write('{\"device\": \"no GPU\"}')"
    )
    report.main()
    assert not (tmp_path / "results").exists()
    assert (report.BUILD / "gpu-report.json").exists()


def test_every_file_that_a_part_names_is_there(monkeypatch):
    import first_light

    todo = [
        *gpu_report.parts(),
        *first_light.parts("1", Path("r")),
        *first_light.parts("2", Path("r")),
    ]
    named = {word for part in todo for word in part.command if word.endswith(".py")}
    assert "benchmarks/single_kernels.py" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("installed", [False, True])
def test_the_kernels_are_linked_where_nothing_is_installed(monkeypatch, tmp_path, installed):
    def distribution(name):
        if not installed:
            raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gpu_report.importlib.metadata, "distribution", distribution)
    monkeypatch.setattr(gpu_report, "ROOT", tmp_path)
    (tmp_path / "sparselth").mkdir()
    (tmp_path / "kernels").mkdir()
    for _ in range(2):
        gpu_report.link_kernels()
    link = tmp_path / "sparselth" / "kernels"
    assert link.exists() != installed
    assert installed or link.resolve() == tmp_path / "kernels"


def test_without_pytest_the_experiments_measure(monkeypatch):
    monkeypatch.setattr(
        gpu_report, "missing", lambda modules: [m for m in modules if m in ("pytest", "xdist")]
    )
    todo = {part.name: part for part in gpu_report.parts(built=True)}
    assert "experiments" in todo
    assert "-n" not in todo["tests"].command
    assert "build" not in todo
