"""What the tests in Triton's interpreter share: cases small enough for it, and kernels that cut
even those into many parts.

TRITON_INTERPRET=1 must be set before the kernels are imported. bfloat16 is drawn where only its
bits matter: the interpreter's conversions to and from it are wrong for denormals and do not round.
"""

from __future__ import annotations

import importlib

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import strategies as st

from sparselth.ops.patterns import Blocks, KernelShapes
from support.strategies import (
    FLOATS,
    conv_cases,
    patterned_lists,
    stride_1_cases,
    tensor_lists,
)
from support.triton import agreement
from support.triton.quick_interpreter import speed_up

speed_up()


@triton.jit
def count_up(into, n):
    for i in range(n):
        tl.store(into, i)


try:
    count_up[(1,)](torch.zeros(1, dtype=torch.int32), 2)
except triton.runtime.errors.InterpreterError as error:  # of triton 3.6 with numpy 2.4
    pytest.skip(f"triton's interpreter does not run here: {error}", allow_module_level=True)

TRUSTED = (torch.float16, torch.float32, torch.float64)
LISTS = agreement.lists(agreement.SHAPES, agreement.WEIGHTS, TRUSTED)
PATTERNED = patterned_lists(agreement.WEIGHTS, TRUSTED).map(
    lambda case: (*case[:3], case[3].encode())
)
BITS = tensor_lists(agreement.SHAPES, FLOATS)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=3)
CONVOLUTIONS = conv_cases(batches=(0, 1, 2, 5), extent=9)  # many tiles, since those are small too
WIDE = stride_1_cases(batches=(0, 1, 5, 6), extent=6)
ORDERED = agreement.ordered_cases(conv_cases(batches=(1, 2), extent=6))
SIZES = st.lists(st.sampled_from([0, 1, 5, 300, 700]), min_size=1, max_size=4)
PATTERNS = (
    *("16x1", "1x16", "32x40", "filter", "channel", "kernel", Blocks(3, 0, 1), Blocks(0, 5, 2)),
    KernelShapes((0b111_100_000, 0b000_011_011, 0b101_010_001), taps=9),
)

in_numpy = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Inf - Inf


def shrink(package, monkeypatch) -> None:
    """Give small tensors many chunks, chunks several tiles, and long tables several launches."""
    for name in ("select", "weight_overlap", "admm_project", "masked_sgd", "masked_adamw"):
        monkeypatch.setattr(importlib.import_module(f"{package.__name__}.{name}"), "BLOCK", 128)
    monkeypatch.setattr(
        importlib.import_module(f"{package.__name__}.patterns"), "EXPAND_BLOCK", 128
    )
    tables = importlib.import_module(f"{package.__name__}.tables")
    monkeypatch.setattr(tables, "MOST_CHUNKS", 6)
    monkeypatch.setattr(tables, "WORDS", tl.constexpr(64))
    forward, grad_weight = (
        importlib.import_module(f"{package.__name__}.masked_conv2d{suffix}")
        for suffix in ("", "_grad_weight")
    )
    small = dict.fromkeys((16, 32, 64), 32)
    monkeypatch.setattr(forward, "BLOCK_M", small)
    monkeypatch.setattr(forward, "GATHERED_M", small)
    monkeypatch.setattr(grad_weight, "BLOCK_K", small)
    monkeypatch.setattr(grad_weight, "LEAST_STEPS", 1)
    boxes = importlib.import_module(f"{package.__name__}.masked_conv2d_tma")
    monkeypatch.setattr(boxes, "TILES", ((4, 2, 2), (1, 4, 4), (2, 1, 8)))
