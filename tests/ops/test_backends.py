"""The backend table: what is reported, forced and refused; and life without any library."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparselth as sl
from sparselth.ops import libraries, reference
from sparselth.ops.backends import forced, implementation, prefer_dense
from sparselth.ops.contract import ALL_SCHEMAS as SCHEMAS
from sparselth.ops.gpu import (
    blocks,
    candidates,
    column_vector,
    halo_blocks,
    launchers,
    triton_support,
    unstructured,
)
from sparselth.ops.gpu import conv as gpu_conv
from sparselth.ops.gpu.candidates import find_candidates
from sparselth.ops.libraries import has_kernel

ROOT = Path(__file__).parents[2]  # where the package may only be found


def loaded(library):
    return any(s.name == library and s.loaded for s in libraries.status())


def test_every_op_is_listed_with_a_reason():
    reports = sl.backends()
    assert {r.op for r in reports} == set(SCHEMAS)
    assert all(r.reason for r in reports)
    assert all(r.available for r in reports if r.backend == "reference")


def test_use_backend_nests_and_restores():
    assert forced() is None
    with sl.use_backend("reference"):
        assert prefer_dense("masked_conv2d", torch.device("cpu"), 0.01)
        with pytest.raises(RuntimeError), sl.use_backend("reference"):
            raise RuntimeError
        assert forced() == "reference"
    assert forced() is None


def test_printed_they_are_a_table():
    reports = sl.backends()
    head, *lines = str(reports).split("\n\n")[0].splitlines()
    assert head.split() == ["reference", "cpu", "cuda", "triton"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    for report in reports:
        mark = rows[report.op][head.split().index(report.backend)]
        there = "yes" if report.backend != "cuda" or torch.cuda.is_available() else "built"
        assert mark == (there if report.available else "-")
    assert repr(reports) == str(reports)
    if not any(report.available for report in reports if report.backend == "triton"):
        assert f"triton: {reason_of(reports)}" in str(reports).splitlines()


def reason_of(reports):
    return next(r.reason for r in reports if r.op == "topk_mask" and r.backend == "triton")


def test_unknown_and_missing_backends():
    with pytest.raises(ValueError, match="unknown backend 'tpu'; known: cpu, cuda, reference"):
        sl.use_backend("tpu").__enter__()
    if not loaded("_C_cuda"):
        with pytest.raises(ValueError, match="backend 'cuda' is not available: "):
            sl.use_backend("cuda").__enter__()


@pytest.mark.skipif(not loaded("_C"), reason="needs the compiled CPU library")
def test_forcing_a_compiled_backend_turns_dense_off():
    assert prefer_dense("masked_conv2d", torch.device("cpu"), 0.99)
    assert not prefer_dense("masked_conv2d", torch.device("cpu"), 0.01)
    with sl.use_backend("cpu"):
        assert not prefer_dense("masked_conv2d", torch.device("cpu"), 0.99)


@pytest.mark.skipif(not loaded("_C_cuda"), reason="needs the compiled CUDA library")
def test_a_forced_backend_never_falls_back_in_silence():
    score = torch.randn(4)
    with sl.use_backend("cuda"), pytest.raises(ValueError, match="no kernel of topk_mask for tens"):
        sl.ops.topk_mask(score, 1)


TRITON = pytest.mark.skipif(
    torch.version.cuda is None
    or not all(map(importlib.util.find_spec, ("triton", "sparselth.kernels"))),
    reason="needs triton, the installed kernels and a CUDA build of torch",
)


def test_triton_is_refused_with_a_reason_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr(launchers, "why_missing", lambda: "no GPU that torch can use")
    with pytest.raises(ValueError, match="'triton' is not available: no GPU that torch can use"):
        sl.use_backend("triton").__enter__()
    reports = [r for r in sl.backends() if r.backend == "triton"]
    assert {r.op for r in reports} == set(SCHEMAS)
    assert all(r.reason == "no GPU that torch can use" and not r.available for r in reports)
    launchers._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="cannot run here.*no GPU that torch can use") as warned:
        serving = [launchers.launcher("topk_mask") for _ in range(2)]
    assert serving == [reference.topk_mask] * 2
    assert len(warned) == 1
    launchers._warn_once.cache_clear()


def test_cuda_convolutions_do_without_triton(monkeypatch):
    pytest.importorskip("sparselth.kernels.blocks", reason="the kernels are not installed")
    for module in (launchers, blocks):
        monkeypatch.setattr(module, "why_missing", lambda: "triton is not installed")
    for module in (launchers, unstructured, column_vector, halo_blocks):
        monkeypatch.setattr(module, "has_cuda_kernels", lambda: True)
    for kind in (blocks.Blocks, candidates.TmaBlocks):  # on the CPU the interpreter stands in
        monkeypatch.setattr(kind, "for_mask", lambda mask, groups: None)
    assert launchers.launcher("masked_conv2d") is gpu_conv.masked_conv2d
    mask = torch.rand(16, 16, 3, 3) < 0.5
    found = find_candidates(mask, 1)
    assert not {"blocks", "compaction"} & {kernel.name for kernel in found.kernels}
    assert found.choose() is None  # dense is faster
    scarce = torch.rand(64, 64, 3, 3) < 0.005
    assert find_candidates(scarce, 1).choose().name == "unstructured"
    for module in (unstructured, column_vector, halo_blocks):
        monkeypatch.setattr(module, "has_cuda_kernels", lambda: False)
    assert not find_candidates(mask, 1).kernels
    x, weight = torch.randn(2, 16, 5, 5), torch.randn(16, 16, 3, 3)
    conv = ([1, 1], [0, 0], [1, 1], 1)
    got = gpu_conv.masked_conv2d(x, weight, mask, None, None, *conv)
    assert torch.equal(got, reference.masked_conv2d(x, weight, mask, None, None, *conv))


@TRITON
def test_triton_serves_its_ops_on_a_gpu_when_forced(monkeypatch):
    monkeypatch.setattr(launchers, "why_missing", lambda: "")
    with sl.use_backend("triton"):
        for op in launchers.OPS:
            found = implementation(op, torch.device("cuda"))
            if op in launchers.BY_MASK:  # which choose among Triton's, and are differentiable
                assert found is getattr(torch.ops.sparselth, op)
            else:
                assert found is launchers.launcher(op)
                assert found.__module__.startswith("sparselth.kernels.")
        for op, device in (("topk_mask", "cpu"), ("lanes_conv2d", "cuda")):
            with pytest.raises(ValueError, match=rf"but it has no kernel of {op} for tensors on"):
                implementation(op, torch.device(device))
    available = {r.op for r in sl.backends() if r.backend == "triton" and r.available}
    assert available == set(launchers.OPS)


@TRITON
def test_triton_takes_the_place_of_cuda_kernels_that_are_not_there():
    for op in SCHEMAS:
        taken = torch._C._dispatch_has_kernel_for_dispatch_key(f"sparselth::{op}", "CUDA")
        assert taken == (has_kernel(op, "cuda") or op in launchers.OPS)


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        ("SPARSELTH_DISABLE", "_host,triton", "left out by SPARSELTH_DISABLE"),
        ("installed", lambda module: False, "triton is not installed"),
        ("torch.version.hip", "7.0", "AMD"),
        ("torch.version.cuda", None, "CPU-only build"),
        ("torch.cuda.is_available", lambda: False, "no GPU"),
        ("torch.cuda.get_device_capability", lambda: (7, 5), "compute capability 8.0, .* has 7.5"),
        ("shutil.which", lambda name: None, "needs a C compiler"),
        ("sysconfig.get_paths", lambda: {"include": "/nowhere"}, "needs Python.h"),
    ],
)
def test_every_reason_why_triton_cannot_run(monkeypatch, where, value, reason):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("SPARSELTH_DISABLE", raising=False)
    all_well = {
        "installed": lambda module: True,
        "torch.version.hip": None,
        "torch.version.cuda": "13.0",
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.get_device_capability": lambda: (9, 0),
        "shutil.which": lambda name: f"/usr/bin/{name}",
        "sysconfig.get_paths": lambda: {"include": str(Path(__file__).parent)},
        "Path.exists": lambda path: path.parent == Path(__file__).parent,
    }
    if where == "SPARSELTH_DISABLE":
        monkeypatch.setenv(where, value)
    for name, found in {**all_well, where: value}.items():
        if name != "SPARSELTH_DISABLE":
            monkeypatch.setattr(f"sparselth.ops.gpu.triton_support.{name}", found)
    assert re.search(reason, triton_support._found_missing())


def test_a_compiled_program_asks_nothing_about_triton(monkeypatch):
    """What a masked convolution asks on a GPU must not break the graph: an error here."""
    triton_support.why_missing()  # as a module does when it gets its mask
    # find_spec breaks the graph of torch 2.11, not that of 2.14; this breaks every graph.
    monkeypatch.setattr(
        triton_support, "installed", lambda module: torch._dynamo.graph_break() or False
    )

    @torch.compile(fullgraph=True, backend="eager")
    def call(x):
        return -x if prefer_dense("masked_conv2d", torch.device("cuda"), 0.01) else x

    sign = -1 if prefer_dense("masked_conv2d", torch.device("cuda"), 0.01) else 1
    assert call(torch.ones(3)).tolist() == [sign] * 3


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SPARSELTH_DISABLE", "_D", "SPARSELTH_DISABLE holds '_D'; known: _C, _C_cuda"),
        ("SPARSELTH_SIMD", "sse", "SPARSELTH_SIMD holds 'sse'; known: portable, avx2, avx512"),
        ("SPARSELTH_BACKEND", "cpu", "SPARSELTH_BACKEND is no setting of sparselth and has no"),
        ("SPARSELTH_CHIOCE", "fixed", "did you mean SPARSELTH_CHOICE"),
    ],
)
def test_settings_of_the_environment_are_named(name, value, says):
    result = subprocess.run(
        [sys.executable, "-c", "import sparselth"],
        cwd=ROOT,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert says in result.stderr


def test_importing_does_not_import_triton():
    code = "import sys, sparselth; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300).returncode == 0


@pytest.mark.skipif(not loaded("_C"), reason="runs once, from the process that has the libraries")
def test_the_contract_holds_without_any_library():
    here = Path(__file__).parent
    environment = {**os.environ, "SPARSELTH_DISABLE": "_C,_C_cuda,_host"}
    files = ["test_contract.py", "test_backends.py"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(not loaded("_C"), reason="needs the compiled CPU library")
@pytest.mark.parametrize("simd", ["portable", "avx2", "avx512"])
def test_every_instruction_set_agrees(simd):
    needs = {"portable": [], "avx2": ["avx2", "fma"], "avx512": ["avx512f", "avx512bw"]}[simd]
    if not all(libraries.host().cpu_features().get(feature) for feature in needs):
        pytest.skip(f"this CPU has no {simd}")
    if simd == libraries.host().simd_level():
        pytest.skip("what this process runs on itself")
    here = Path(__file__).parent
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "test_masked_conv2d.py",
            "test_masked_linear.py",
            "test_masked_linear_in_16_bits.py",
            "test_lanes_conv2d.py",
            "test_lanes_fused_conv2d.py",
            "test_topk_mask.py",
            "test_admm_project.py",
            "test_masked_sgd.py",
            "test_lanes_batch_norm.py",
            "test_lanes_max_pool2d.py",
            "-k",
            "oracle",
        ],
        cwd=here,
        env={**os.environ, "SPARSELTH_SIMD": simd},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
