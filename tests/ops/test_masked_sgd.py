"""masked_sgd_ against the oracle and against torch.optim."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import FLOATS

from sparselth.ops import masked_sgd_, reference

ops = torch.ops.sparselth


@given(
    sizes=st.lists(st.sampled_from([0, 1, 5, 33, 20000]), min_size=1, max_size=4),
    dtype=st.sampled_from(FLOATS),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    momentum=st.sampled_from([0.0, 0.9]),
    dampening=st.sampled_from([0.0, 0.3]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    nesterov=st.booleans(),
    masked=st.booleans(),
    rho=st.sampled_from([0.0, 0.02]),
)
@settings(max_examples=200)
def test_matches_the_oracle(
    sizes, dtype, density, momentum, dampening, weight_decay, nesterov, masked, rho
):
    masks = [torch.rand(n) < density for n in sizes]
    if not masked:
        masks = [torch.ones(n, dtype=torch.bool) for n in sizes]
    weights, grads, momenta, z, u = ([torch.randn(n).to(dtype) for n in sizes] for _ in range(5))
    settings_ = (0.1, momentum, dampening, weight_decay, nesterov, rho)
    given = masks if masked else []
    pair = (z, u) if rho else ([], [])
    got_w, got_v = [t.clone() for t in weights], [t.clone() for t in momenta]
    ops.masked_sgd_(got_w, grads, got_v if momentum else [], given, *pair, *settings_)
    # The kernel computes 16-bit tensors in float32: compare with the oracle in float64.
    want_w, want_v = [t.double() for t in weights], [t.double() for t in momenta]
    wide = [[t.double() for t in tensors] for tensors in (grads, *pair)]
    reference.masked_sgd_(want_w, wide[0], want_v, given, *wide[1:], *settings_)
    eps = torch.finfo(dtype).eps
    for a, b in zip(got_w + got_v, want_w + want_v, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=4 * eps, atol=4 * eps)
    for weight, mask in zip(got_w, masks, strict=True):
        assert not weight[~mask].any()


@pytest.mark.parametrize("layouts", list(itertools.product([False, True], repeat=4)))
def test_any_mix_of_layouts_is_updated_in_place(layouts):
    plain = [torch.randn(4, 3, 5, 2) for _ in range(3)] + [torch.rand(4, 3, 5, 2) < 0.5]
    formats = [torch.channels_last if last else torch.contiguous_format for last in layouts]
    weight, grad, momentum, mask = (
        t.clone(memory_format=layout) for t, layout in zip(plain, formats, strict=True)
    )
    want_weight, want_momentum = plain[0].clone(), plain[2].clone()
    reference.masked_sgd_(
        *([t] for t in (want_weight, plain[1], want_momentum, plain[3])),
        *([], [], 0.1, 0.9, 0.0, 1e-4, True, 0.0),
    )
    masked_sgd_(
        [weight], [grad], [momentum], [mask], lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    torch.testing.assert_close(weight, want_weight)
    torch.testing.assert_close(momentum, want_momentum)


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(ValueError, match="lists differ in length"):
        masked_sgd_([torch.zeros(1)], [], [], [torch.ones(1, dtype=torch.bool)], lr=0.1)
