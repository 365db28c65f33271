"""The exceptions that sparselth raises on purpose."""

from __future__ import annotations

import difflib


class SparselthError(ValueError):
    """Bad input or an unusable state, said in one sentence with what to do about it."""


def unknown_name(kind: str, got: object, known) -> SparselthError:
    """Return the error for a name that a registry does not have."""
    near = difflib.get_close_matches(str(got), sorted(known), n=1, cutoff=0.7)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return SparselthError(f"unknown {kind} {got!r}; {hint}known: {', '.join(sorted(known))}")
