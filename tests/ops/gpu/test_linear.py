"""Linear layers by the kernels of convolutions; on the host the oracles stand in for most."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselth.ops import reference
from sparselth.ops.gpu import blocks, column_vector, halo_blocks, linear, unstructured
from sparselth.ops.gpu.candidates import candidates_for
from sparselth.ops.switches import forcing

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


@pytest.fixture(autouse=True, scope="module")
def with_cuda_kernels_only():
    with pytest.MonkeyPatch.context() as patch:
        for module in (unstructured, column_vector, halo_blocks):
            patch.setattr(module, "has_cuda_kernels", lambda: True)
        # Triton's interpreter has tests of its own, tests/kernels.
        patch.setattr(blocks.Blocks, "for_mask", lambda mask, groups: None)
        yield


SIZES = st.integers(1, 40)


@given(SIZES, SIZES, st.integers(0, 70), st.sampled_from([0.0, 0.02, 0.5]), st.booleans())
@settings(max_examples=60)
def test_every_pass_is_that_of_the_oracle(outs, ins, rows, density, wide):
    torch.manual_seed(0)
    dtype = torch.bfloat16 if wide else torch.float32
    mask = torch.rand(outs, ins) < density
    weight, bias = torch.randn(outs, ins), torch.randn(outs)
    x, grad = torch.randn(rows, ins).to(dtype), torch.randn(rows, outs).to(dtype)
    narrow, narrow_bias = weight.to(dtype), bias.to(dtype)
    with forcing("cuda"):
        got = (
            linear.masked_linear(x, weight, mask, bias, None),
            linear.masked_linear_grad_input(grad, weight, mask, None),
            linear.masked_linear_grad_weight(grad, x, mask, None, wide),
        )
    want = (
        reference.masked_linear(x, narrow, mask, narrow_bias, None),
        reference.masked_linear_grad_input(grad, narrow, mask, None),
        reference.masked_linear_grad_weight(grad, x, mask, None, wide),
    )
    tolerance = 2e-2 if wide else 1e-4
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert a.is_contiguous()
        torch.testing.assert_close(a, b, rtol=tolerance, atol=16 * tolerance)


def test_rows_are_an_image_without_a_copy():
    rows = torch.randn(7, 16)
    images = linear._images(rows)
    assert images.shape == (1, 16, 1, 7)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.data_ptr() == rows.data_ptr()
    assert linear._rows(images).data_ptr() == rows.data_ptr()


def test_a_mask_is_known_again_through_the_view_that_each_call_makes():
    mask = torch.rand(32, 32) < 0.01
    known = candidates_for(linear.as_kernels(mask), 1)
    assert candidates_for(linear.as_kernels(mask), 1) is known
    mask[0] = True
    assert candidates_for(linear.as_kernels(mask), 1) is not known
