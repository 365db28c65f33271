"""The backend table: what is reported, forced and refused; and life without any library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparselth as sl
from sparselth.ops import loader
from sparselth.ops.backends import forced, prefer_dense
from sparselth.ops.contract_blocked import ALL_SCHEMAS as SCHEMAS


def loaded(library):
    return any(s.name == library and s.loaded for s in loader.status())


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
    if not all(loader.host().cpu_features().get(feature) for feature in needs):
        pytest.skip(f"this CPU has no {simd}")
    if simd == loader.host().simd_level():
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
            "test_blocked_conv2d.py",
            "test_topk_mask.py",
            "test_admm_project.py",
            "test_masked_sgd.py",
            "test_blocked_batch_norm.py",
            "test_blocked_max_pool2d.py",
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
