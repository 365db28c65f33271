"""The memory of activations in lanes, which stays with them from step to step."""

from __future__ import annotations

import ctypes

from .. import libraries


def release_lane_memory() -> int:
    """Hand the memory that is kept for the activations of the next step back to the system.

    On Linux, and with torch 2.11 or newer, the CPU kernels keep the memory of activations that are
    freed, at most as much as was in use at once in the last some thousand calls, and use it again:
    a training step asks for the same tensors every time. Call this after training, in a program
    that goes on with something else. Memory in use is not touched.

    Returns the bytes handed back; 0 where nothing was kept.
    """
    (library,) = (status for status in libraries.status() if status.name == "_C")
    if not library.loaded:
        return 0
    release = ctypes.CDLL(library.path).sparselth_release_lane_memory
    release.argtypes, release.restype = [], ctypes.c_int64
    return release()
