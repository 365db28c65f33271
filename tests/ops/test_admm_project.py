"""admm_project_: exact, so compared bit for bit, and against brute force."""

import pytest
import torch
from hypothesis import given, settings
from strategies import tensor_lists

from sparselth.ops import admm_project_, reference

ops = torch.ops.sparselth


@given(tensor_lists())
@settings(max_examples=200)
def test_is_the_oracle_bit_for_bit(case):
    weights, k, pooled = case
    lists = [[torch.randn_like(w) for w in weights] for _ in range(2)]
    z, u = ([t.clone() for t in tensors] for tensors in lists)
    got = ops.admm_project_(weights, z, u, k, pooled)
    want = reference.admm_project_(weights, *lists, k, pooled)
    for a, b in zip(z + u, lists[0] + lists[1], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


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


def test_nothing_is_written_when_the_input_is_bad():
    w, z, u = [torch.tensor([1.0, float("nan")])], [torch.ones(2)], [torch.ones(2)]
    with pytest.raises(ValueError, match=r"weights\[0\] holds NaN or Inf"):
        admm_project_(w, z, u, sparsity=0.5)
    assert z[0].tolist() == [1, 1]
    assert u[0].tolist() == [1, 1]


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
