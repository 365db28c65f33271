"""The installation these tests run in: its record, its libraries, and life without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from sparselth.ops import libraries

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True
    )


def test_every_library_is_loaded_or_says_why_not():
    for status in libraries.status():
        assert status.loaded == (status.reason == "")
    assert {status.name for status in libraries.status()} == {"_C", "_C_cuda", "_host"}


def test_what_the_record_calls_built_is_loaded():
    built = libraries.build_info().get("libraries")
    if built is None:
        pytest.skip("no build record: sparselth was not built in this place")
    for status in libraries.status():
        assert status.loaded == built[status.name]["built"], status.reason


def test_with_nvcc_and_a_cuda_torch_the_cuda_kernels_compile_and_link():
    record = libraries.build_info()
    if not record.get("nvcc") or not record.get("torch_cuda") or record["mode"] != "auto":
        pytest.skip("not built in auto mode with nvcc and a CUDA torch")
    if record["nvcc"].split(".")[0] != record["torch_cuda"].split(".")[0]:
        pytest.skip("nvcc and torch of different CUDA majors")
    assert record["libraries"]["_C_cuda"] == {"built": True, "reason": ""}


ORACLE = """
import torch
from sparselth.ops import contract, libraries, reference
assert all("SPARSELTH_DISABLE" in s.reason for s in libraries.status()), libraries.status()
x = torch.arange(-8.0, 8.0)
(mask,), _ = torch.ops.sparselth.topk_mask([x], [3], False, [])
assert mask.nonzero().flatten().tolist() == [0, 1, 15], mask
w, u, z = torch.tensor([1.0, -3.0]), torch.tensor([0.5, 0.0]), torch.zeros(2)
torch.ops.sparselth.admm_project_([w], [z], [u], [1], False, [], False)
assert z.tolist() == [0.0, -3.0] and u.tolist() == [1.5, 0.0], (z, u)
y = torch.ops.sparselth.masked_linear(torch.ones(1, 2), w[None], w[None] > 0, None, None)
assert y.tolist() == [[1.0]], y
"""


def test_without_any_library_the_results_are_right():
    done = run(ORACLE, SPARSELTH_DISABLE="_C,_C_cuda,_host")
    assert done.returncode == 0, done.stderr


def test_disabling_one_library_leaves_the_others():
    before = {s.name: s.loaded for s in libraries.status()}
    code = "from sparselth.ops import libraries; print([s.loaded for s in libraries.status()])"
    done = run(code, SPARSELTH_DISABLE="_C")
    assert done.stdout.strip() == str([False, before["_C_cuda"], before["_host"]])


def test_a_broken_library_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "_C.so").write_bytes(b"not a library")
    monkeypatch.setattr(libraries, "PACKAGE", tmp_path)
    status = libraries._load("_C")
    assert not status.loaded
    assert status.reason
    assert "\n" not in status.reason
    assert "no build record" in libraries._load("_host").reason or libraries.build_info()


@pytest.mark.parametrize("name", ["_C", "_host"])
def test_a_library_that_lacks_a_symbol_says_which_and_is_warned_about_once(
    tmp_path, monkeypatch, name
):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to build a broken library with")
    source = tmp_path / "broken.cpp"
    source.write_text("void sparselth_missing(); struct A { A() { sparselth_missing(); } } a;\n")
    library = tmp_path / libraries._path(name).name
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    monkeypatch.setattr(libraries, "PACKAGE", tmp_path)
    monkeypatch.setattr(libraries, "LIBRARIES", (name,))
    monkeypatch.setattr(libraries, "_status", {})
    with pytest.warns(UserWarning, match=f"{name} was built but .* undefined symbol: .*missing"):
        libraries.load()
    assert "sparselth_missing" in libraries._status[name].reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        libraries.load()  # says nothing the second time


def test_a_library_that_was_not_built_is_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(libraries, "PACKAGE", tmp_path)
    monkeypatch.setattr(libraries, "_status", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        libraries.load()
    assert all(not status.loaded for status in libraries._status.values())


def test_the_line_that_matters_is_kept():
    error = OSError("Could not load this library: _C.so\n_C.so: undefined symbol: torch_x\nmore")
    assert "undefined symbol: torch_x" in libraries._why_not_loaded(error)
    wrapped = RuntimeError("could not be loaded")
    wrapped.__cause__ = error
    assert "undefined symbol: torch_x" in libraries._why_not_loaded(wrapped)


def test_the_kernels_folder_is_no_top_level_package():
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    done = run(start + "from kernels import masked_conv2d")
    assert done.returncode != 0
    assert "import sparselth.kernels" in done.stderr
    done = run(start + "import kernels.masked_conv2d")
    assert "No module named 'kernels.masked_conv2d'" in done.stderr
    # As transformers asks whether the package is there.
    done = run(start + "import kernels; print(kernels.__file__, hasattr(kernels, '__version__'))")
    assert done.stdout.split() == ["None", "False"], done.stderr


def test_the_kernels_folder_does_not_hide_the_package_of_that_name(tmp_path):
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '1.0'\nfrom .hub import get_kernel\n")
    (package / "hub.py").write_text("get_kernel = 'theirs'\n")
    done = run(
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import kernels; "
        "from kernels import get_kernel; import kernels.hub, sparselth.kernels; "
        "print(kernels.__version__, get_kernel, kernels.__name__, sparselth.kernels.__name__)"
    )
    assert done.stdout.split() == ["1.0", "theirs", "kernels", "sparselth.kernels"], done.stderr


def test_the_environment_report_names_versions_libraries_and_ops():
    from sparselth import info

    facts = info.collect()
    text = info.render(facts)
    assert torch.__version__ in text
    assert set(facts["libraries"]) == {"_C", "_C_cuda", "_host", "Triton kernels"}
    assert "reference" in facts["ops"]["masked_conv2d"]
    assert "unknown (" not in text


def test_a_failing_probe_does_not_break_the_report(monkeypatch):
    from sparselth import info

    monkeypatch.setattr(info, "_gpus", lambda: 1 / 0)
    assert "unknown (ZeroDivisionError" in info.render()
