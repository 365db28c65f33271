"""The Triton kernels in Triton's interpreter. Collected by `test_kernels_interpreter.py` only."""

from __future__ import annotations

import dataclasses
import importlib
import itertools

import pytest
import sparselth.kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselth.ops import reference
from sparselth.ops.gpu import conv as gpu_conv
from sparselth.ops.gpu.candidates import candidates_for
from sparselth.ops.gpu.tma_blocks import TmaBlocks
from support.strategies import ConvCase
from support.triton import agreement
from support.triton.interpreting import (
    BITS,
    CONVOLUTIONS,
    LISTS,
    ORDERED,
    PATTERNED,
    PATTERNS,
    SHARES,
    SIZES,
    TRUSTED,
    WIDE,
    in_numpy,
    shrink,
)

pytestmark = in_numpy


@pytest.fixture
def kernels(monkeypatch):
    shrink(sparselth.kernels, monkeypatch)
    return sparselth.kernels


@given(BITS)
@settings(max_examples=30)
def test_masks_of_entries_are_the_oracles(kernels, case):
    agreement.same_masks(kernels, (*case, []))


@given(PATTERNED)
@settings(max_examples=30)
def test_masks_of_groups_are_the_oracles(kernels, case):
    agreement.same_masks(kernels, case)


@given(LISTS, st.booleans())
@settings(max_examples=25)
def test_projections_are_the_oracles(kernels, case, allow_nonfinite):
    agreement.same_projection(kernels, case, allow_nonfinite)


@given(BITS, st.sampled_from([None, 0.1, 0.9]), SHARES)
@settings(max_examples=12)
def test_overlaps_are_the_oracles(kernels, case, density, shares):
    agreement.same_overlap(kernels, case, density, shares)


@given(SIZES, st.sampled_from(TRUSTED), st.booleans(), agreement.settings_of_steps())
@settings(max_examples=60)
def test_steps_are_the_oracles(kernels, sizes, dtype, masked, drawn):
    agreement.same_step(kernels, sizes, dtype, masked, drawn)


@given(SIZES, st.sampled_from(TRUSTED), st.booleans(), agreement.settings_of_adamw())
@settings(max_examples=60)
def test_adamw_is_the_oracles(kernels, sizes, dtype, masked, drawn):
    agreement.same_adamw(kernels, sizes, dtype, masked, drawn)


SINGLE = st.sampled_from([torch.float16, torch.float32])


@pytest.fixture
def precise():
    """Multiply float32 as float32; TF32 is what cuDNN does, and no GPU is needed for it."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@given(CONVOLUTIONS, SINGLE, st.sampled_from([16, 32, 64]))
@settings(max_examples=60)
def test_convolutions_are_the_oracles(kernels, precise, case, dtype, size):
    agreement.same_convolution(kernels, case, dtype, size)


@given(WIDE, st.sampled_from([(16, 16), (32, 32), (16, 128), (32, 128), (64, 64)]))
@settings(max_examples=40)
def test_convolutions_by_boxes_are_the_oracles(kernels, case, shape):
    agreement.same_wide_convolution(kernels, case, shape)


def test_a_kernel_by_boxes_packs_once_and_leaves_the_weight_gradient_to_blocks(
    kernels, precise, monkeypatch
):
    torch.manual_seed(0)
    mask = (torch.rand(1, 3, 3, 3) < 0.4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    kernel = TmaBlocks.for_mask(mask, 1)
    packings, pack = [], kernel.pack

    def counted(*pair):
        packings.append(pair)
        return pack(*pair)

    monkeypatch.setattr(kernel, "pack", counted)
    x, weight = torch.randn(2, 48, 5, 6).half(), torch.randn(mask.shape).half()
    conv = ([1, 1], [1, 1], [1, 1], 1)
    y = kernel.forward(x, weight, mask, None, conv)
    grad = torch.randn_like(y)
    got = (y, kernel.grad_input(grad, weight, mask, [5, 6], conv))
    assert len(packings) == 1
    want = (
        reference.masked_conv2d(x.double(), weight.double(), mask, None, None, *conv),
        reference.masked_conv2d_grad_input(
            grad.double(), weight.double(), mask, None, [5, 6], *conv
        ),
    )
    for pair in zip(got, want, strict=True):
        agreement.same_results(*pair, torch.float16)
    weight.add_(1)  # since the forward: packed anew
    kernel.grad_input(grad, weight, mask, [5, 6], conv)
    assert len(packings) == 2
    dw = kernel.grad_weight(grad, x, mask, conv)
    want_dw = reference.masked_conv2d_grad_weight(grad.double(), x.double(), mask, None, *conv)
    agreement.same_results(dw, want_dw, torch.float16)
    # Parts of tensors may begin anywhere; a descriptor cannot.
    odd = torch.randn(1 + x.numel()).half()[1:].as_strided(x.shape, (48 * 30, 1, 48 * 6, 48))
    agreement.same_results(
        kernel.forward(odd, weight, mask, None, conv),
        reference.masked_conv2d(odd.double(), weight.double(), mask, None, None, *conv),
        torch.float16,
    )


@given(ORDERED, SINGLE, st.sampled_from([16, 32]), agreement.DEAD)
@settings(max_examples=40)
def test_convolutions_of_ordered_channels_are_the_oracles(
    kernels, precise, case, dtype, size, dead
):
    agreement.same_convolution(kernels, case, dtype, size, dead=dead)


def whole_blocks(**changes) -> ConvCase:
    """Return a case of blocks of 16 that have all their channels."""
    case = ConvCase(
        *(2, 2, 32, 16, (7, 6), (3, 3), (2, 1), (1, 1), (1, 1)),
        *(0.02, True, "channels_last", False, 0),
    )
    return dataclasses.replace(case, **changes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("density", [0.001, 0.02, 1.0])
def test_convolutions_of_whole_blocks_are_the_oracles(kernels, precise, dtype, density):
    agreement.same_convolution(kernels, whole_blocks(density=density), dtype, 16)


@pytest.mark.parametrize("dead", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)], ids=str)
def test_whole_blocks_of_ordered_channels_are_the_oracles(kernels, precise, dead):
    case = whole_blocks(groups=1, out_per_group=32, density=0.3)
    agreement.same_convolution(kernels, case, torch.float32, 16, dead=dead)


def test_offsets_of_64_bits(kernels, precise, monkeypatch):
    for name in ("masked_conv2d", "masked_conv2d_grad_weight"):
        module = importlib.import_module(f"{kernels.__name__}.{name}")
        monkeypatch.setattr(module, "MOST_32_BIT", 0)
    agreement.same_convolution(kernels, whole_blocks(), torch.float32, 16)
    ordered = whole_blocks(groups=1, density=0.3)
    agreement.same_convolution(kernels, ordered, torch.float32, 16, dead=(0.5, 0.5))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_ops_keep_the_layout_and_find_the_blocks_again(kernels, precise, layout):
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=layout)
    weight, mask = torch.randn(12, 8, 3, 3), torch.rand(12, 8, 3, 3) < 0.3
    conv = ([1, 1], [1, 1], [1, 1], 1)
    for _ in range(2):
        y = gpu_conv.masked_conv2d(x, weight, mask, None, None, *conv)
        torch.testing.assert_close(
            y, reference.masked_conv2d(x, weight, mask, None, None, *conv), rtol=1e-4, atol=1e-4
        )
        assert y.is_contiguous(memory_format=layout)
        positive = gpu_conv.masked_conv2d_relu(x, weight, mask, None, None, *conv)
        assert torch.equal(positive, y.relu())
        dw = gpu_conv.masked_conv2d_grad_weight(y, x, mask, None, *conv)
        assert dw[mask].all()
        mask.logical_not_()  # noticed, though no plan was rebuilt
    assert candidates_for(mask, 1).relative_time == 1.0  # nothing to leave out: cuDNN does it


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_ops_leave_dead_filters_and_channels_out(kernels, precise, layout):
    x = torch.randn(2, 128, 3, 4).contiguous(memory_format=layout)
    weight, bias = torch.randn(128, 128, 1, 1), torch.randn(128)
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    mask[3::8, 1::8] = True
    assert candidates_for(mask, 1).choose().name == "compaction"
    conv, hw = ([1, 1], [0, 0], [1, 1], 1), [3, 4]
    y = gpu_conv.masked_conv2d(x, weight, mask, bias, None, *conv)
    positive = gpu_conv.masked_conv2d_relu(x, weight, mask, bias, None, *conv)
    assert torch.equal(positive, y.relu())
    got = (
        y,
        gpu_conv.masked_conv2d_grad_input(y, weight, mask, None, hw, *conv),
        gpu_conv.masked_conv2d_grad_weight(y, x, mask, None, *conv),
    )
    want = (
        reference.masked_conv2d(x, weight, mask, bias, None, *conv),
        reference.masked_conv2d_grad_input(y, weight, mask, None, hw, *conv),
        reference.masked_conv2d_grad_weight(y, x, mask, None, *conv),
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert got[0].is_contiguous(memory_format=layout)
    assert got[1].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("dtype", TRUSTED, ids=str)
def test_squares_are_added_in_the_order_of_the_contract(pattern, dtype):
    agreement.same_scores(sparselth.kernels, pattern, dtype)


def test_ties_go_to_the_first(kernels):
    agreement.same_ties(kernels)


@pytest.mark.parametrize("layouts", list(itertools.product([False, True], repeat=2)))
def test_channels_last_tensors_are_written_in_place(kernels, layouts):
    formats = [torch.channels_last if last else torch.contiguous_format for last in layouts]
    w, g, v, z, u = (torch.randn(4, 3, 5, 2) for _ in range(5))
    mask = torch.rand(w.shape) < 0.5
    got = [t.clone(memory_format=formats[0]) for t in (w, v, z, u)]
    grad = g.clone(memory_format=formats[1])
    step = (0.1, 0.9, 0.0, 0.01, True, 0.02)
    agreement.kernel(kernels, "masked_sgd_")(
        got[:1], [grad], got[1:2], [mask], got[2:3], got[3:], *step
    )
    agreement.kernel(kernels, "admm_project_")(got[:1], got[2:3], got[3:], [30], False, [], False)
    agreement.reference.masked_sgd_([w], [g], [v], [mask], [z], [u], *step)
    agreement.reference.admm_project_([w], [z], [u], [30], False, [], False)
    for a, b in zip(got, (w, v, z, u), strict=True):
        torch.testing.assert_close(a, b)


def test_a_table_is_written_once(kernels, monkeypatch):
    tables = importlib.import_module("sparselth.kernels.tables")
    tensors = [torch.randn(10), torch.randn(20)]
    columns = [tables.addresses(tensors)]
    first, again = (
        tables.make_table([10, 20], columns, block=8, device=torch.device("cpu")) for _ in range(2)
    )
    other = tables.make_table([10, 19], columns, block=8, device=torch.device("cpu"))
    assert first.words is again.words
    assert first.words is not other.words
    assert first.words[:6].tolist() == [0, 2, 10, 20, *columns[0]]
    assert first.chunks == 5
