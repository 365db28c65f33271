"""What the process does with memory that tensors give back."""

from __future__ import annotations

import ctypes

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in the process, to be used again by the next step's tensors.

    By default the C library hands large blocks back to the system and gets them anew, page by
    page and zeroed, in every training step. A sparse step is short enough for that to show. It
    concerns the whole process, dense training too, so it is for the program to ask for;
    `sparselth` on the command line does.

    Returns whether the C library could be told (glibc; False elsewhere).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such function here, or no such library
        return False
    # Blocks from mmap always go back when freed; the trim threshold holds for the rest.
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _INT_MAX))


def return_freed_memory() -> bool:
    """Hand memory that was freed, and that the C library still holds, back to the system, once.

    Returns whether the C library could be told (glibc; False elsewhere).
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return False
    trim(ctypes.c_size_t(0))
    return True
