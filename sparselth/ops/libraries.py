"""Load the compiled libraries; a library that cannot be loaded is a reason, never an exception.

One that was not built is no news; one that was built and does not load is said once, in a warning.

`contract` must be imported first: the libraries only register kernels, the schemas are Python's.
SPARSELTH_DISABLE=_C,_C_cuda,_host,triton leaves the named libraries (and the Triton kernels) out,
so that the plain PyTorch reference runs instead (used by the tests, and to rule a kernel out when
hunting a bug).
"""

from __future__ import annotations

import importlib.util
import json
import sysconfig
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..environment import setting

PACKAGE = Path(__file__).resolve().parent.parent
OP_LIBRARIES = ("_C", "_C_cuda")
LIBRARIES = (*OP_LIBRARIES, "_host")
_NAMESPACE = "sparselth"
LEFT_OUT = "left out by SPARSELTH_DISABLE"


@dataclass(frozen=True)
class LibraryStatus:
    """Whether a compiled library is in use; `reason` is empty when it is."""

    name: str
    loaded: bool
    path: str | None
    reason: str


_status: dict[str, LibraryStatus] = {}

# (op, "cpu" or "cuda"): what the libraries registered. Read once, when they have been loaded, as
# torch.compile cannot trace the query.
_kernels: frozenset[tuple[str, str]] = frozenset()
_host_module: ModuleType | None = None


def load() -> None:
    """Load every library that is there. Calling it again does nothing."""
    global _kernels
    if len(_status) == len(LIBRARIES):
        return
    for name in LIBRARIES:
        _status[name] = _load(name)
        if _status[name].path is not None and not _status[name].loaded:
            _warn(_status[name])
    _kernels = frozenset(
        (op.removeprefix(f"{_NAMESPACE}::"), key.lower())
        for key in ("CPU", "CUDA")
        for op in torch._C._dispatch_get_registrations_for_dispatch_key(key)
        if op.startswith(f"{_NAMESPACE}::")
    )


def has_kernel(op: str, device: str) -> bool:
    """Say whether a library has a kernel of `op` for tensors on "cpu" or "cuda"."""
    return (op, device) in _kernels


def _warn(status: LibraryStatus) -> None:
    warnings.warn(
        f"sparselth's {status.name} was built but cannot be loaded, plain PyTorch takes its place: "
        f"{status.reason}. Build it again in this environment (pip install -e . "
        f"--no-build-isolation), or set SPARSELTH_DISABLE={status.name} to go without",
        stacklevel=3,
    )


def status() -> list[LibraryStatus]:
    """Return one status per library, loading them first if that has not happened."""
    load()
    return [_status[name] for name in LIBRARIES]


def host() -> ModuleType | None:
    """Return the torch-free module `_host`, or None when it is not there."""
    load()
    return _host_module


def left_out(name: str) -> bool:
    """Say whether SPARSELTH_DISABLE names this library, or "triton"."""
    return name in setting("SPARSELTH_DISABLE")


@cache
def build_info() -> dict[str, Any]:
    """Return the record that the build left in the package; empty when there is none."""
    try:
        return json.loads((PACKAGE / "_build_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _load(name: str) -> LibraryStatus:
    if left_out(name):
        return LibraryStatus(name, False, None, LEFT_OUT)
    path = _path(name)
    if not path.exists():
        return LibraryStatus(name, False, None, _why_not_built(name))
    try:
        if name == "_host":
            _import_host(path)
        else:
            torch.ops.load_library(str(path))
    except Exception as error:  # whatever it is, it becomes a reason: the reference still works
        return LibraryStatus(name, False, str(path), _why_not_loaded(error))
    return LibraryStatus(name, True, str(path), "")


def _path(name: str) -> Path:
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if name == "_host" else ".so"
    return PACKAGE / f"{name}{suffix}"


def _import_host(path: Path) -> None:
    global _host_module
    spec = importlib.util.spec_from_file_location("sparselth._host", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _host_module = module


def _why_not_built(name: str) -> str:
    record = build_info().get("libraries", {}).get(name, {})
    if record.get("reason"):
        return f"not built: {record['reason']}"
    if record.get("built"):
        return "built, but its file is gone; install again"
    return "not built: no build record; run pip install -e . --no-build-isolation"


# The linker's sentence, in an error that torch may begin with lines of its own.
_CAUSES = (
    *("undefined symbol", "cannot open shared object", "not found (required by"),
    *("No such file", "file too short", "invalid ELF header", "wrong ELF class", "image not found"),
)


def _why_not_loaded(error: BaseException) -> str:
    """Return the line that matters of what loading said, and the torch it was built with."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines += [line.strip() for line in str(cause).splitlines() if line.strip()]
        cause = cause.__cause__ or cause.__context__
    telling = [line for line in lines if any(words in line for words in _CAUSES)]
    text = (telling or lines or [type(error).__name__])[0]
    built_for = build_info().get("torch")
    if built_for and built_for != torch.__version__:
        return f"built with torch {built_for}, running {torch.__version__}: {text}"
    return text
