"""The settings that come from environment variables: SPARSELTH_*."""

from __future__ import annotations

import difflib
import os
import warnings

from .errors import SparselthError

# Name -> the values it may have; None where others read it.
SETTINGS: dict[str, tuple[str, ...] | None] = {
    "SPARSELTH_BENCH_ROWS": None,
    "SPARSELTH_BUILD": None,
    "SPARSELTH_CHOICE": ("measured", "graphed", "fixed"),
    "SPARSELTH_DISABLE": ("_C", "_C_cuda", "_host", "triton"),
    "SPARSELTH_SIMD": ("portable", "avx2", "avx512"),
}
_LISTS = ("SPARSELTH_DISABLE",)


def setting(name: str) -> list[str]:
    """Return what a setting holds: one value, or several of a list; none where it is not set.

    Raises SparselthError for a value that it cannot have.
    """
    held = os.environ.get(name, "")
    values = held.replace(",", " ").split() if name in _LISTS else [held] * bool(held)
    known = SETTINGS[name]
    for value in values:
        if known is not None and value not in known:
            raise SparselthError(
                f"the environment variable {name} holds {value!r}; known: {', '.join(known)}"
            )
    return values


def check_settings() -> None:
    """Look at all of them once, when the package is imported.

    Warns of a variable that is none of them, which would have no effect.

    Raises SparselthError as `setting` does.
    """
    for name in SETTINGS:
        setting(name)
    for name in sorted(os.environ):
        if name.startswith("SPARSELTH_") and name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            warnings.warn(
                f"the environment variable {name} is no setting of sparselth and has no effect; "
                f"{hint}known: {', '.join(SETTINGS)}",
                stacklevel=2,
            )
