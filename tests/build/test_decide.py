"""What is built, and the sentence that says why not: from the toolchain, never from a GPU."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from support.fakes import ARCHS, COMPLETE, NVCC, SOURCES, tools

from build_support.decide import NAMED_ARCHS, BuildError, architectures, decide, max_jobs
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


def archs(named, accepted=ARCHS):
    return architectures({"TORCH_CUDA_ARCH_LIST": named}, accepted)


@pytest.mark.parametrize("named", ["", "All", "common", "native", "7.0 All"])
def test_without_an_arch_list_the_default_is_clipped_to_what_nvcc_accepts(named):
    assert archs(named).words == "8.0 9.0 10.0+PTX"
    assert archs(named, frozenset({70, 80, 86, 90})).words == "8.0 9.0+PTX"
    assert archs(named, frozenset({110, 120})).words == "12.0+PTX"


def test_the_arch_list_becomes_gencode_flags():
    found = architectures({"TORCH_CUDA_ARCH_LIST": "8.6;9.0a+PTX"}, NVCC.archs)
    assert found.words == "8.6 9.0a+PTX"
    assert found.left_out == []
    assert found.flags == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]


@pytest.mark.parametrize(
    ("named", "words", "left_out"),
    [
        ("7.0 8.0", "8.0", ["7.0 is below 8.0"]),
        ("Hopper", "9.0+PTX", []),
        ("Volta;Ampere;hopper", "8.0 8.6+PTX 9.0+PTX", ["7.0+PTX is below 8.0"]),
        ("Ampere+Tegra 9.0", "9.0", ["8.7 is not among what this nvcc accepts"]),
        ("9.0 9.0 8.0", "9.0 8.0", []),
        ("8.0 Hooper", "8.0", ["'Hooper' is not understood"]),
        ("6.0 7.5", "", ["6.0 is below", "7.5 is below"]),
    ],
)
def test_names_are_mapped_and_what_cannot_be_served_is_left_out(named, words, left_out):
    found = archs(named)
    assert found.words == words
    assert len(found.left_out) == len(left_out)
    for said, expected in zip(found.left_out, left_out, strict=True):
        assert expected in said


def test_names_are_those_of_torch():
    from torch.utils.cpp_extension import _get_cuda_arch_flags

    text = inspect.getsource(_get_cuda_arch_flags)
    theirs = dict(re.findall(r"\('([A-Z][A-Za-z+]+)', '([^']+)'\)", text))
    assert theirs, "torch's table of names is not where it was"
    for name, listed in theirs.items():
        assert NAMED_ARCHS.get(name.lower()) == listed.replace(";", " "), name


def test_an_arch_list_of_which_nothing_is_left_leaves_out_cuda_or_fails_where_it_was_asked_for():
    env = {"TORCH_CUDA_ARCH_LIST": "6.0 7.0"}
    assert built(env, COMPLETE) == {"_C": True, "_C_cuda": False, "_host": True}
    said = reason(env, COMPLETE, "_C_cuda")
    assert "6.0 is below 8.0" in said
    assert "7.0 is below 8.0" in said
    for also in ({"SPARSELTH_BUILD": "cuda"}, {"FORCE_CUDA": "1"}):
        with pytest.raises(BuildError, match="nothing is left of TORCH_CUDA_ARCH_LIST"):
            decide(env | also, COMPLETE, SOURCES)


def test_max_jobs_by_cores_and_memory():
    assert max_jobs({}, 16, 64 << 30) == 16
    assert max_jobs({}, 16, 8 << 30) == 4
    assert max_jobs({}, 4, 1 << 30) == 1
    assert max_jobs({"MAX_JOBS": "3"}, 16, 64 << 30) == 3
    with pytest.raises(BuildError, match="MAX_JOBS"):
        max_jobs({"MAX_JOBS": "many"}, 1, 1)
