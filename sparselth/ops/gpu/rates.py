"""How fast convolutions run on a GPU: what the candidates for a mask are ranked by.

Dense arithmetic in 16 bits on one H100, of layers of 128 channels and more. Only the proportions
matter. They are held low, as a layer that is measured stays dense where they were too hopeful, and
the fixed table, which asks nothing else, must not be slower than dense.
"""

from __future__ import annotations

from typing import NamedTuple


class Rate(NamedTuple):
    """Teraflops, 10^12 multiplications and additions per second, and where they come from.

    source: "estimated", or the device and the date of the measurement.
    """

    teraflops: float
    source: str = "estimated"


CUDNN = "cudnn"

# By kernel; blocks by the length of their edge.
RATES: dict[str, Rate] = {
    CUDNN: Rate(500.0),
    "blocks64": Rate(220.0),
    "blocks32": Rate(120.0),
    "blocks16": Rate(60.0),
    # By depth and width: limited by what comes from the caches, 5.5 TB/s.
    "tma_blocks64x64": Rate(230.0),
    "tma_blocks32x32": Rate(130.0),
    "tma_blocks16x16": Rate(65.0),
    "tma_blocks64x128": Rate(350.0),
    "tma_blocks32x128": Rate(350.0),
    "tma_blocks16x128": Rate(300.0),
    # Half: channels that are gathered do not go to shared memory 16 bytes at a time.
    "compaction64": Rate(110.0),
    "compaction32": Rate(60.0),
    "compaction16": Rate(30.0),
    "halo_blocks": Rate(250.0),
    "column_vector16": Rate(60.0),
    "column_vector8": Rate(40.0),
    "unstructured": Rate(6.0),
}


def slower_than_cudnn(kernel: str) -> float:
    """Return how many times as long as cuDNN a kernel takes for the same products."""
    return RATES[CUDNN].teraflops / RATES[kernel].teraflops
