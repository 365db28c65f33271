"""Tests stand where what they test stands, under its name."""

from pathlib import Path

import pytest

from sparselth.ops.contract import ALL_SCHEMAS

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"

# Rooms of the tests alone: what they prove goes across the sources.
NETS = {".", "build", "cuda_emulation", "integrations", "support"}

FOLDERS = sorted({path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")})


def stems_of(folder: Path) -> set[str]:
    """Return what the tests of a folder may be named after: its modules, packages and ops."""
    outside = folder.parts[0] in ("kernels", "csrc")
    source = ROOT / folder if outside else ROOT / "sparselth" / folder
    modules = {path.stem for path in source.glob("*.*")} - {"__init__"}
    packages = {path.parent.name for path in source.glob("*/__init__.py")}
    ops = {op.rstrip("_") for op in ALL_SCHEMAS} if folder.name == "ops" else set()
    return modules | packages | ops | {folder.name}


@pytest.mark.parametrize("folder", [f for f in FOLDERS if str(f) not in NETS], ids=str)
def test_every_file_is_named_after_what_it_tests(folder):
    stems = stems_of(folder)
    names = [path.stem.removeprefix("test_") for path in (TESTS / folder).glob("test_*.py")]
    strangers = [
        name for name in names if not any(name == s or name.startswith(f"{s}_") for s in stems)
    ]
    assert names
    assert not strangers, f"named after none of {sorted(stems)}"


def test_helpers_are_a_package():
    """Flat names on the path would shadow, and be shadowed."""
    helpers = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.py")
        if not path.name.startswith("test_") and path.name != "conftest.py"
    }
    assert helpers
    assert all(name.startswith("support/") for name in helpers)
