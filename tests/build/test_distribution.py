"""What a wheel and an sdist hold, and what an installation does when it cannot compile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ("build_support", "csrc", "kernels", "sparselth", "setup.py", "pyproject.toml")
CARRIED += ("MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md", "Makefile")

pytestmark = pytest.mark.skipif(
    subprocess.run(
        [sys.executable, "-c", "import setuptools, ninja, pybind11"], capture_output=True
    ).returncode
    != 0,
    reason="the build requirements are not in this environment",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources without anything built, with one small C++ source file."""
    tree = tmp_path / "tree"
    tree.mkdir()
    ignore = shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__")
    for name in CARRIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        else:
            shutil.copy(source, tree / name)
    return tree


def keep_only_host(tree: Path) -> None:
    """Take the slow sources out: what is tested does not depend on how much is compiled."""
    shutil.rmtree(tree / "csrc" / "cpu")
    shutil.rmtree(tree / "csrc" / "cuda")


def build(tree: Path, kind: str, **env: str) -> subprocess.CompletedProcess[str]:
    code = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    clean = {k: v for k, v in os.environ.items() if k not in ("FORCE_CUDA", "SPARSELTH_BUILD")}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=clean | env, capture_output=True, text=True
    )


def wheel_names(tree: Path) -> list[str]:
    (wheel,) = (tree / "dist").glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def record(tree: Path) -> dict:
    (wheel,) = (tree / "dist").glob("*.whl")
    return json.loads(zipfile.ZipFile(wheel).read("sparselth/_build_info.json"))


def test_a_wheel_installs_one_top_level_package(tree):
    done = build(tree, "wheel", SPARSELTH_BUILD="none")
    assert done.returncode == 0, done.stderr
    names = wheel_names(tree)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"sparselth"}
    assert "sparselth/kernels/__init__.py" in names
    assert "sparselth/py.typed" in names
    assert "sparselth/ops/contract/__init__.py" in names
    assert not [name for name in names if name.endswith((".so", ".cpp", ".cu"))]
    assert record(tree)["libraries"]["_C"] == {"built": False, "reason": "SPARSELTH_BUILD=none"}


def test_without_a_compiler_the_wheel_is_built_and_says_so(tree):
    done = build(tree, "wheel", CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    reasons = {name: state["reason"] for name, state in record(tree)["libraries"].items()}
    assert all("no C++ compiler" in reason for reason in reasons.values()), reasons
    assert "no C++ compiler" in done.stdout


def test_a_failing_compile_is_recorded_in_auto_and_stops_when_asked_for(tree):
    keep_only_host(tree)
    (tree / "csrc" / "host" / "broken.cpp").write_text("int broken() { return nothing; }\n")
    done = build(tree, "wheel")
    assert done.returncode == 0, done.stderr
    state = record(tree)["libraries"]["_host"]
    assert not state["built"]
    assert "nothing" in state["reason"]
    assert not [name for name in wheel_names(tree) if name.endswith(".so")]
    asked = build(tree, "wheel", SPARSELTH_BUILD="cpu")
    assert asked.returncode != 0
    assert "_host failed to compile" in asked.stderr


def test_a_wheel_built_from_the_sdist_has_the_library(tree):
    keep_only_host(tree)
    done = build(tree, "sdist")
    assert done.returncode == 0, done.stderr
    (sdist,) = (tree / "dist").glob("*.tar.gz")
    shutil.unpack_archive(sdist, tree / "unpacked")
    (unpacked,) = (tree / "unpacked").iterdir()
    assert (unpacked / "csrc" / "host" / "host.h").exists()
    done = build(unpacked, "wheel", SPARSELTH_BUILD="cpu")
    assert done.returncode == 0, done.stderr
    assert [name for name in wheel_names(unpacked) if name.startswith("sparselth/_host")]


def test_the_sdist_holds_every_native_source_and_nothing_built(tree):
    (tree / "sparselth" / "_C.so").touch()
    done = build(tree, "sdist")
    assert done.returncode == 0, done.stderr
    (sdist,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    sources = {str(p.relative_to(tree)) for p in (tree / "csrc").rglob("*") if p.is_file()}
    assert sources <= names
    assert "build_support/command.py" in names
    assert not [name for name in names if name.endswith(".so")]
