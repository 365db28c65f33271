"""masked_adamw_ against the oracle and against torch.optim."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import FLOATS

import sparselth as sl
from sparselth.ops import masked_adamw_, reference

ops = torch.ops.sparselth
SHAPES = ((0,), (), (1,), (33,), (20000,), (4, 3, 5, 2))


def laid_out(tensor, layout):
    """Return the same values: contiguous, channels_last, or as every second of a wider tensor."""
    if layout == "strided" and tensor.dim():
        wide = tensor.repeat_interleave(2, -1)
        return wide[..., ::2]
    last = layout == "channels_last" and tensor.dim() == 4
    return tensor.clone(memory_format=torch.channels_last if last else torch.contiguous_format)


LAYOUT = st.sampled_from(["contiguous", "channels_last", "strided"])


@given(
    shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4),
    layouts=st.tuples(*[LAYOUT] * 7),
    dtype=st.sampled_from(FLOATS),
    density=st.sampled_from([0.0, 0.1, 1.0, None]),
    step=st.sampled_from([1, 2, 1000]),
    own_steps=st.booleans(),
    beta1=st.sampled_from([0.0, 0.9]),
    eps=st.sampled_from([1e-8, 1e-3]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    rho=st.sampled_from([0.0, 0.02]),
)
@settings(max_examples=200)
def test_matches_the_oracle(
    shapes, layouts, dtype, density, step, own_steps, beta1, eps, weight_decay, rho
):
    g = torch.Generator().manual_seed(len(shapes) + step)
    lists = [[torch.randn(s, generator=g).to(dtype) for s in shapes] for _ in range(6)]
    lists[3] = [square.abs() for square in lists[3]]
    masks = [torch.rand(s, generator=g) < (density or 0) for s in shapes]
    masks = [] if density is None else masks
    for tensors in (lists[0], *lists[2:4]):
        for tensor, mask in zip(tensors, masks, strict=False):
            tensor[~mask] = torch.nan  # must become zeros all the same
    pair = lists[4:] if rho else [[], []]
    steps = [torch.tensor(float(step + i)) for i in range(len(shapes))] if own_steps else []
    settings_ = (steps, 0 if own_steps else step, 0.1, beta1, 0.99, eps, weight_decay, rho)
    *got, given_masks, z, u = (
        [laid_out(t, layout) for t in tensors]
        for tensors, layout in zip((*lists[:4], masks, *pair), layouts, strict=True)
    )
    ops.masked_adamw_(*got, given_masks, z, u, *settings_)
    # The kernel computes 16-bit tensors in float32: compare with the oracle in float64.
    want = [[t.double() for t in tensors] for tensors in (*lists[:4], *pair)]
    reference.masked_adamw_(*want[:4], masks, *want[4:], *settings_)
    tolerance = 8 * torch.finfo(dtype).eps
    for i in (0, 2, 3):
        for a, b in zip(got[i], want[i], strict=True):
            torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)
        for tensor, mask in zip(got[i], masks, strict=False):
            assert not tensor[~mask].any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_oracle_in_16_bits_computes_in_float32(dtype):
    """Gradients whose squares, and an eps that, are zero in float16."""
    narrow = [torch.full((3,), value, dtype=dtype) for value in (1.0, 1e-4, 0.0, 0.0)]
    wide = [t.double() for t in narrow]
    for tensors in (narrow, wide):
        reference.masked_adamw_(
            *([t] for t in tensors), [], [], [], [], 1, 0.1, 0.9, 0.999, 1e-8, 0.0, 0.0
        )
    torch.testing.assert_close(narrow[0], wide[0].to(dtype))


@pytest.mark.parametrize("layouts", list(itertools.product([False, True], repeat=3)))
def test_any_mix_of_layouts_is_updated_in_place(layouts):
    plain = [torch.rand(4, 3, 5, 2) for _ in range(4)] + [torch.rand(4, 3, 5, 2) < 0.5]
    formats = [torch.channels_last if last else torch.contiguous_format for last in layouts]
    formats += formats[:2]
    got = [t.clone(memory_format=f) for t, f in zip(plain, formats, strict=True)]
    settings_ = ([], [], [], 3, 0.1, 0.9, 0.999, 1e-8, 0.01, 0.0)
    reference.masked_adamw_(*([t] for t in plain), *settings_)
    masked_adamw_(*([t] for t in got), step=3, lr=0.1)
    for a, b in zip(got, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_masks_it_is_torchs_step(dtype):
    weight = torch.nn.Parameter(torch.randn(1000, dtype=dtype))
    got = [weight.detach().clone(), torch.zeros_like(weight), torch.zeros_like(weight)]
    optimizer = torch.optim.AdamW([weight], lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    for step in range(1, 6):
        weight.grad = torch.randn_like(weight)
        optimizer.step()
        lists = ([got[0]], [weight.grad], [got[1]], [got[2]], [])
        masked_adamw_(*lists, step=step, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    state = optimizer.state[weight]
    for a, b in zip(got, (weight.data, state["exp_avg"], state["exp_avg_sq"]), strict=True):
        torch.testing.assert_close(a, b, rtol=16 * torch.finfo(dtype).eps, atol=1e-7)


def test_the_backend_can_be_forced():
    def step():
        torch.manual_seed(0)
        lists = [[torch.rand(50)] for _ in range(4)]
        masked_adamw_(*lists, [torch.rand(50) < 0.5], step=1, lr=0.1)
        return lists[0][0]

    chosen = step()
    with sl.use_backend("reference"):
        torch.testing.assert_close(step(), chosen)
    listed = {r.backend: r for r in sl.backends() if r.op == "masked_adamw_"}
    assert listed["reference"].available
    assert "no kernel for this op" not in listed["triton"].reason


def test_bad_input_is_one_clear_sentence():
    ones = [torch.ones(2)]
    lists = (ones, ones, ones, ones)
    with pytest.raises(ValueError, match="lists differ in length"):
        masked_adamw_(ones, ones, ones, [], [], step=1, lr=0.1)
    with pytest.raises(ValueError, match=r"exp_avg_sqs\[0\] has shape \(3,\), weights\[0\] \(2,\)"):
        masked_adamw_(ones, ones, ones, [torch.ones(3)], [], step=1, lr=0.1)
    with pytest.raises(ValueError, match="mask must be bool"):
        masked_adamw_(*lists, ones, step=1, lr=0.1)
    with pytest.raises(ValueError, match="step counts from 1, got 0"):
        masked_adamw_(*lists, [], step=0, lr=0.1)
    with pytest.raises(ValueError, match=r"betas\[1\] must be .* in \[0, 1\), got 1.0"):
        masked_adamw_(*lists, [], step=1, lr=0.1, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"step must be float32 scalars on cpu.*got torch.int64"):
        masked_adamw_(*lists, [], step=[torch.tensor(1)], lr=0.1)
    mixed = [torch.ones(2), torch.ones(2).half()]
    with pytest.raises(ValueError, match="one dtype and device"):
        masked_adamw_(mixed, mixed, mixed, mixed, [], step=1, lr=0.1)
