"""What is built, and the sentence that says why not: from the toolchain, never from a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import ARCHS, COMPLETE, NVCC, SOURCES, tools

from build_support.decide import BuildError, arch_flags, decide, max_jobs
from build_support.toolchain import Torch

CPU_TORCH = Torch("2.13.0+cpu", None, Path("torch"))


def built(env, toolchain, sources=SOURCES):
    return {d.library: d.build for d in decide(env, toolchain, sources)}


def reason(env, toolchain, library, sources=SOURCES):
    return next(d.reason for d in decide(env, toolchain, sources) if d.library == library)


def test_a_complete_toolchain_builds_everything():
    assert built({}, COMPLETE) == {"_C": True, "_C_cuda": True, "_host": True}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("auto", {"_C": True, "_C_cuda": True, "_host": True}),
        ("cuda", {"_C": True, "_C_cuda": True, "_host": True}),
        ("cpu", {"_C": True, "_C_cuda": False, "_host": True}),
        ("none", {"_C": False, "_C_cuda": False, "_host": False}),
    ],
)
def test_mode(mode, expected):
    assert built({"SPARSELTH_BUILD": mode}, COMPLETE) == expected


def test_an_unknown_mode_is_refused_and_the_known_ones_named():
    with pytest.raises(BuildError, match="auto, cuda, cpu, none"):
        decide({"SPARSELTH_BUILD": "gpu"}, COMPLETE, SOURCES)


@pytest.mark.parametrize("mode", ["cpu", "none"])
def test_force_cuda_contradicts_a_build_without_cuda(mode):
    with pytest.raises(BuildError, match="contradicts"):
        decide({"FORCE_CUDA": "1", "SPARSELTH_BUILD": mode}, COMPLETE, SOURCES)


@pytest.mark.parametrize(
    ("changes", "library", "says"),
    [
        ({"cxx": None}, "_C", "no C++ compiler"),
        ({"ninja": None}, "_C", "no ninja"),
        ({"torch": None}, "_C", "torch is not installed"),
        ({"torch": Torch("2.9.1", None, Path())}, "_C", "older than 2.10"),
        ({"pybind11": None}, "_host", "no pybind11"),
        ({"nvcc": None, "nvcc_reason": "no nvcc here"}, "_C_cuda", "no nvcc here"),
        ({"torch": CPU_TORCH}, "_C_cuda", "CPU-only build"),
    ],
)
def test_what_is_missing_is_a_reason_in_auto_and_an_error_when_asked_for(changes, library, says):
    toolchain = tools(**changes)
    assert says in reason({}, toolchain, library)
    if says != "CPU-only build":
        with pytest.raises(BuildError, match=says.replace("+", r"\+")):
            decide({"SPARSELTH_BUILD": "cuda"}, toolchain, SOURCES)


def test_a_missing_nvcc_leaves_the_other_libraries_alone():
    toolchain = tools(nvcc=None, nvcc_reason="no nvcc here")
    assert built({}, toolchain) == {"_C": True, "_C_cuda": False, "_host": True}


def test_a_cuda_major_mismatch_names_both_versions():
    toolchain = tools(torch=Torch("2.12.0+cu128", "12.8", Path("torch")))
    said = reason({}, toolchain, "_C_cuda")
    assert "CUDA 13.0" in said
    assert "CUDA 12.8" in said
    with pytest.raises(BuildError, match=r"CUDA 13\.0 .* CUDA 12\.8"):
        decide({"FORCE_CUDA": "1"}, toolchain, SOURCES)


def test_a_cuda_minor_mismatch_is_fine():
    assert COMPLETE.torch.cuda == "13.2"
    assert COMPLETE.nvcc.version == (13, 0)
    assert built({}, COMPLETE)["_C_cuda"]


def test_force_cuda_builds_for_a_cpu_only_torch():
    assert built({"FORCE_CUDA": "1"}, tools(torch=CPU_TORCH))["_C_cuda"]


def test_no_sources_is_a_reason_even_when_asked_for():
    sources = {**SOURCES, "_C_cuda": []}
    assert reason({"SPARSELTH_BUILD": "cuda"}, COMPLETE, "_C_cuda", sources) == "no source files"


def test_auto_requires_nothing_and_cpu_requires_the_cpu_libraries():
    def required(env):
        return {d.library for d in decide(env, COMPLETE, SOURCES) if d.required}

    assert required({}) == set()
    assert required({"FORCE_CUDA": "1"}) == {"_C_cuda"}
    assert required({"SPARSELTH_BUILD": "cpu"}) == {"_C", "_host"}
    assert required({"SPARSELTH_BUILD": "cuda"}) == {"_C", "_C_cuda", "_host"}


def test_without_an_arch_list_the_default_is_clipped_to_what_nvcc_accepts():
    assert arch_flags({}, ARCHS)[0] == "8.0 9.0 10.0+PTX"
    assert arch_flags({}, frozenset({70, 80, 86, 90}))[0] == "8.0 9.0+PTX"
    assert arch_flags({}, frozenset({110, 120}))[0] == "12.0+PTX"


def test_the_arch_list_becomes_gencode_flags():
    words, flags = arch_flags({"TORCH_CUDA_ARCH_LIST": "8.6;9.0a+PTX"}, NVCC.archs)
    assert words == "8.6 9.0a+PTX"
    assert flags == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]


@pytest.mark.parametrize(
    ("named", "says"), [("Hopper", "not understood"), ("6.0", "accepts only 7.5, 8.0")]
)
def test_an_arch_that_cannot_be_compiled_for_is_refused(named, says):
    with pytest.raises(BuildError, match=says):
        arch_flags({"TORCH_CUDA_ARCH_LIST": named}, ARCHS)


def test_max_jobs_by_cores_and_memory():
    assert max_jobs({}, 16, 64 << 30) == 16
    assert max_jobs({}, 16, 8 << 30) == 4
    assert max_jobs({}, 4, 1 << 30) == 1
    assert max_jobs({"MAX_JOBS": "3"}, 16, 64 << 30) == 3
    with pytest.raises(BuildError, match="MAX_JOBS"):
        max_jobs({"MAX_JOBS": "many"}, 1, 1)
