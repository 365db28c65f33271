"""admm_project_: exact, so compared bit for bit, and against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import tensor_lists

from sparselth.ops import admm_project_, reference

ops = torch.ops.sparselth


@given(tensor_lists(), st.booleans())
@settings(max_examples=300)
def test_is_the_oracle_bit_for_bit(case, allow_nonfinite):
    weights, k, global_ = case
    lists = [[torch.randn_like(w) for w in weights] for _ in range(2)]
    z, u = ([t.clone() for t in tensors] for tensors in lists)
    got = ops.admm_project_(weights, z, u, k, global_, [], allow_nonfinite)
    want = reference.admm_project_(weights, *lists, k, global_, [], allow_nonfinite)
    for a, b in zip(z + u, lists[0] + lists[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12, equal_nan=True)


def test_it_is_the_euclidean_projection():
    # Brute force: of all supports of size k, the projection is the nearest point.
    w, u = torch.randn(7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    z, dual = torch.zeros_like(w), u.clone()
    admm_project_([w], [z], [dual], k=3)
    v = w + u
    distances = [
        (v - v * torch.tensor(support)).square().sum()
        for support in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 7).double().tolist()
        if sum(support) == 3
    ]
    torch.testing.assert_close((v - z).square().sum(), min(distances))
    torch.testing.assert_close(dual, v - z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize(
    ("weight", "dual", "message"),
    [
        (float("nan"), 1.0, r"weights\[1\] holds NaN or Inf"),
        (1.0, -float("inf"), r"the dual of weights\[1\] holds NaN or Inf"),
        ("largest", "largest", r"the sum of weights\[1\] and its dual holds NaN or Inf"),
    ],
)
def test_nothing_is_written_when_the_input_is_bad(dtype, allocation, weight, dual, message):
    largest = torch.finfo(dtype).max
    w, z, u = ([torch.ones(3, dtype=dtype) for _ in range(2)] for _ in range(3))
    w[1][2], u[1][2] = (largest if x == "largest" else x for x in (weight, dual))
    before = [t.clone() for t in z + u]
    with pytest.raises(ValueError, match=message):
        admm_project_(w, z, u, sparsity=0.5, allocation=allocation)
    for a, b in zip(z + u, before, strict=True):
        assert torch.equal(a, b)


def test_nan_left_in_z_is_overwritten():
    w, z, u = [torch.tensor([1.0, -2.0])], [torch.tensor([float("nan"), 0.0])], [torch.zeros(2)]
    residuals = admm_project_(w, z, u, k=1)
    assert z[0].tolist() == [0, -2]
    assert residuals[0, 0] == 1
    assert residuals[0, 1].isnan()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: admm_project_([t], [t], [t], sparsity=1.0), r"in \[0, 1\); got 1.0"),
        (lambda t: admm_project_([t], [t], [t]), "give either sparsity or k"),
        (lambda t: admm_project_([t], [t], [], k=1), "lists differ in length"),
        (lambda t: admm_project_([t], [t[:2]], [t], k=1), r"z\[0\] has shape \(2,\)"),
        (lambda t: admm_project_([t], [t.double()], [t], k=1), r"z\[0\] is torch.float64"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(4.0))
