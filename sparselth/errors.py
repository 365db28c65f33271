"""The exceptions that sparselth raises on purpose."""


class SparselthError(ValueError):
    """Bad input or an unusable state, said in one sentence with what to do about it."""


def unknown_name(kind: str, got: object, known) -> SparselthError:
    """Return the error for a name that a registry does not have."""
    return SparselthError(f"unknown {kind} {got!r}; known: {', '.join(sorted(known))}")
