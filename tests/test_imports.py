"""Imports point down one list of rooms, and no circle is anywhere: within functions neither."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "sparselth"

# From top to bottom: a room imports what stands below it, and its own files.
ROOMS = (
    *("__main__", "cli", "bench", "info", "sparselth", "study", "study.runner", "study.report"),
    *("study.analysis", "study.execution", "study.plan", "training", "optim", "pruning", "nn"),
    *("ops", "ops.steps", "ops.selection", "ops.conv", "ops.linear", "ops.kernel_choice"),
    *("ops.autocast", "ops.plan", "ops.backends", "ops.autograd", "ops.gpu", "ops.reference"),
    *("ops.lanes", "ops.contract", "ops.bitmask", "ops.parameter_masks", "ops.checks"),
    *("ops.geometry", "ops.derived", "ops.patterns", "ops.libraries", "ops.transforms"),
    "ops.switches",
    *("models", "data", "settings", "memory", "files", "seeds", "checks", "environment"),
    *("version", "deprecated", "errors"),
)

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / PACKAGE).rglob("*.py")
}


def imports_of(name: str) -> set[str]:
    """Return the modules of the package that one of them imports, wherever in its text."""
    path, found = FILES[name], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            above = here[: len(here) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                found.add(whole if whole in FILES else source)
    return {module for module in found if module in FILES} - {name}


IMPORTS = {name: imports_of(name) for name in FILES}


def room_of(name: str) -> str:
    parts = name.split(".")[1:] or [PACKAGE]
    for length in (2, 1):
        if ".".join(parts[:length]) in ROOMS:
            return ".".join(parts[:length])
    raise AssertionError(f"{name} stands in no room: give it one")


def test_imports_point_down_the_list():
    upwards = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if ROOMS.index(room_of(other)) < ROOMS.index(room_of(name))
    ]
    assert not upwards


def test_no_file_imports_itself_over_others():
    left = dict(IMPORTS)
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert not left
