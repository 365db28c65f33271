"""topk_mask, admm_project_ and weight_overlap: exact, so compared bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from strategies import tensor_lists

from sparselth.ops import admm_project_, reference, topk_mask, weight_overlap

ops = torch.ops.sparselth


@given(tensor_lists())
@settings(max_examples=300)
def test_topk_mask_is_the_oracle_bit_for_bit(case):
    tensors, k, pooled = case
    got = ops.topk_mask(tensors, k, pooled)
    want = reference.topk_mask(tensors, k, pooled)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
    assert sum(int(m.sum()) for m in got) == sum(k)


@given(tensor_lists())
@settings(max_examples=200)
def test_admm_project_is_the_oracle_bit_for_bit(case):
    weights, k, pooled = case
    lists = [[torch.randn_like(w) for w in weights] for _ in range(2)]
    z, u = ([t.clone() for t in tensors] for tensors in lists)
    got = ops.admm_project_(weights, z, u, k, pooled)
    want = reference.admm_project_(weights, *lists, k, pooled)
    for a, b in zip(z + u, lists[0] + lists[1], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@given(tensor_lists())
@settings(max_examples=100)
def test_weight_overlap_is_the_oracle(case):
    a, k, pooled = case
    if pooled:
        k = [t.numel() // 3 for t in a]
    b = [torch.randn_like(t) for t in a]
    assert torch.equal(ops.weight_overlap(a, b, k), reference.weight_overlap(a, b, k))
    assert torch.equal(ops.weight_overlap(a, a, k), torch.tensor(k))


def test_ties_go_to_the_lowest_index():
    mask = topk_mask(torch.tensor([1.0, -2.0, 2.0, 1.0, 2.0]), 2)
    assert mask.tolist() == [False, True, True, False, False]


def test_admm_project_is_the_euclidean_projection():
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


def test_single_tensors_and_lists():
    score = torch.randn(4, 5)
    mask = topk_mask(score, 6)
    assert mask.shape == score.shape
    assert int(mask.sum()) == 6
    assert topk_mask([], []) == []
    assert [int(m.sum()) for m in topk_mask([score, score], [1, 2])] == [1, 2]
    pooled = topk_mask([score, 10 * score], 5, allocation="global")
    assert int(pooled[0].sum()) < int(pooled[1].sum())


def test_nothing_is_written_when_the_input_is_bad():
    w, z, u = [torch.tensor([1.0, float("nan")])], [torch.ones(2)], [torch.ones(2)]
    with pytest.raises(ValueError, match=r"weights\[0\] holds NaN or Inf"):
        admm_project_(w, z, u, sparsity=0.5)
    assert z[0].tolist() == [1, 1]
    assert u[0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: topk_mask(t, 5), r"k\[0\] = 5 is outside \[0, 4\]"),
        (
            lambda t: topk_mask(t, 1, allocation="layer"),
            "unknown allocation 'layer'; known: global, uniform",
        ),
        (lambda t: topk_mask([t, t], [1]), "k has 1 counts for 2 selections"),
        (lambda t: topk_mask(t / 0, 1), r"scores\[0\] holds NaN or Inf"),
        (lambda t: topk_mask([t, t.double()], [1, 1]), "one dtype and device, got"),
        (lambda t: admm_project_([t], [t], [t], sparsity=1.0), r"in \[0, 1\); got 1.0"),
        (lambda t: admm_project_([t], [t], [t]), "give either sparsity or k"),
        (lambda t: admm_project_([t], [t], [], k=1), "lists differ in length"),
        (lambda t: admm_project_([t], [t[:2]], [t], k=1), r"z\[0\] has shape \(2,\)"),
        (lambda t: weight_overlap([t], [t[:2]], [1]), r"a\[0\] has shape \(4,\)"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(4.0))
