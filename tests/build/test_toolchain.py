"""Finding nvcc and its toolkit: wrappers, missing folders, CUDA_HOME."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_support import toolchain

ANSWERS = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release 13.0, V13.0.1" ;;
  --list-gpu-arch) echo compute_80; echo compute_90 ;;
  --dryrun) echo '#$ TOP={top}' ;;
esac
"""


@pytest.fixture(autouse=True)
def _no_usual_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(toolchain, "USUAL_TOOLKIT_FOLDER", tmp_path / "nowhere")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def toolkit(home: Path) -> Path:
    program(home / "bin" / "nvcc", ANSWERS.format(top=home / "bin" / ".."))
    (home / "include").mkdir()
    (home / "include" / "cuda_runtime.h").touch()
    return home


def test_nvcc_on_the_path(tmp_path):
    home = toolkit(tmp_path / "cuda")
    nvcc, reason = toolchain.find_nvcc({"PATH": f"{home / 'bin'}:/usr/bin:/bin"})
    assert reason == ""
    assert nvcc.home == home
    assert nvcc.version == (13, 0)
    assert nvcc.archs == {80, 90}


def test_a_wrapper_on_the_path_leads_to_the_real_toolkit(tmp_path):
    home = toolkit(tmp_path / "cuda")
    wrapper = program(
        tmp_path / "local" / "bin" / "nvcc", f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n'
    )
    nvcc, _ = toolchain.find_nvcc({"PATH": f"{wrapper.parent}:/usr/bin:/bin"})
    assert nvcc.home == home


def test_a_wrapper_that_leads_nowhere_asks_for_cuda_home(tmp_path):
    wrapper = program(tmp_path / "local" / "bin" / "nvcc", "#!/bin/sh\nexit 1\n")
    nvcc, reason = toolchain.find_nvcc({"PATH": f"{wrapper.parent}:/usr/bin:/bin"})
    assert nvcc is None
    assert "set CUDA_HOME" in reason


def test_cuda_home_goes_before_the_path(tmp_path):
    named, other = toolkit(tmp_path / "named"), toolkit(tmp_path / "other")
    env = {"CUDA_HOME": str(named), "PATH": f"{other / 'bin'}:/usr/bin:/bin"}
    assert toolchain.find_nvcc(env)[0].home == named


def test_a_wrong_cuda_home_is_named(tmp_path):
    nvcc, reason = toolchain.find_nvcc({"CUDA_HOME": str(tmp_path), "PATH": ""})
    assert nvcc is None
    assert str(tmp_path) in reason
    assert "cuda_runtime.h" in reason


def test_no_nvcc_at_all(tmp_path):
    nvcc, reason = toolchain.find_nvcc({"PATH": str(tmp_path)})
    assert nvcc is None
    assert reason.startswith("no nvcc")


def test_the_usual_folder_is_found_without_a_path(tmp_path, monkeypatch):
    home = toolkit(tmp_path / "usual")
    monkeypatch.setattr(toolchain, "USUAL_TOOLKIT_FOLDER", home)
    assert toolchain.find_nvcc({"PATH": str(tmp_path)})[0].home == home


def test_a_compiler_named_by_cxx_that_is_not_there_is_no_compiler():
    assert toolchain.find_cxx({"CXX": "no-such-compiler"}) is None
