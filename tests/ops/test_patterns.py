"""Patterns: the masks against brute force, every kernel against the oracle bit for bit."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import patterned_lists

from sparselth.ops import admm_project_, patterns, reference, topk_mask
from sparselth.ops.patterns import Blocks, KernelShapes, NOfM, axes, classify, find_pattern
from sparselth.ops.reference import ranking

ops = torch.ops.sparselth
ROOT = Path(__file__).parents[2]


def test_kinds_have_the_same_numbers_in_every_language():
    ours = {name: value for name, value in vars(patterns).items() if name.startswith("KIND_")}
    assert len(set(ours.values())) == len(ours) == 3
    (enum,) = re.findall(r"enum Kind \{(.*?)\}", (ROOT / "csrc/common/pattern.h").read_text())
    in_cpp = dict(re.findall(r"k(\w+) = (-?\d+)", enum))
    assert int(in_cpp.pop("Element")) < 0  # no code begins with it
    plain = {name.removeprefix("KIND_").replace("_", ""): value for name, value in ours.items()}
    assert {name.upper(): int(value) for name, value in in_cpp.items()} == plain
    (line,) = re.findall(r"^(KIND_.*) = (.*)$", (ROOT / "kernels/patterns.py").read_text(), re.M)
    assert dict(zip(line[0].split(", "), map(int, line[1].split(", ")), strict=True)) == ours


@given(patterned_lists())
@settings(max_examples=400)
def test_masks_are_the_oracles_bit_for_bit(case):
    tensors, k, global_, pattern = case
    got, nonfinite = ops.topk_mask(tensors, k, global_, pattern.encode())
    want, counted = reference.topk_mask(tensors, k, global_, pattern.encode())
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(nonfinite, counted)


@given(patterned_lists(), st.booleans())
@settings(max_examples=300)
def test_projections_are_the_oracles_bit_for_bit(case, allow_nonfinite):
    weights, k, global_, pattern = case
    lists = [[torch.randn_like(w) for w in weights] for _ in range(2)]
    z, u = ([t.clone() for t in tensors] for tensors in lists)
    got = ops.admm_project_(weights, z, u, k, global_, pattern.encode(), allow_nonfinite)
    want = reference.admm_project_(weights, *lists, k, global_, pattern.encode(), allow_nonfinite)
    for a, b in zip(z + u, lists[0] + lists[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("pattern", ["16x1", "1x16", "32x40", "filter", "channel", "kernel"])
@pytest.mark.parametrize(
    ("dtype", "values"), [(torch.float32, (2.0**27, 1.0)), (torch.float64, (1.1, 0.7))]
)
def test_squares_are_added_in_the_order_of_the_contract(pattern, dtype, values):
    # Groups of the same values rank by how their sum is rounded: in float64 2^54 + 1 is 2^54, and
    # the square of 1.1 is rounded before it is added.
    groups = find_pattern(pattern)
    generator = torch.Generator().manual_seed(0)
    rare = torch.rand(128, 160, 3, 3, generator=generator) < 0.02
    weight = torch.full(rare.shape, values[1], dtype=dtype).masked_fill(rare, values[0])
    total = groups.groups(weight.shape)
    scores = ranking.block_scores(weight.flatten(2), groups.encode()[1:])
    assert scores.unique().numel() > 1
    for k in range(1, total, max(1, total // 40)):
        got, _ = ops.topk_mask([weight], [k], False, groups.encode())
        want, _ = reference.topk_mask([weight], [k], False, groups.encode())
        assert torch.equal(got[0], want[0])


def supports(groups, k):
    """Yield every support that keeps k of the groups: index lists."""
    for kept in itertools.combinations(groups, k):
        yield sorted(itertools.chain(*kept))


def boxes(shape, out, inputs, taps):
    """Return the flat indices of each box of a weight."""
    sides = [side or n for side, n in zip((out, inputs, taps), axes(shape), strict=True)]
    found = {}
    cells = itertools.product(*map(range, axes(shape)))
    for index, cell in enumerate(cells):
        box = tuple(i // side for i, side in zip(cell, sides, strict=True))
        found.setdefault(box, []).append(index)
    return [found[box] for box in sorted(found)]


def admissible(pattern, shape, k):
    """Yield every support of the set that the pattern projects onto."""
    taps = axes(shape)[2]
    if isinstance(pattern, Blocks):
        yield from supports(boxes(shape, pattern.out, pattern.inputs, pattern.taps), k)
    elif isinstance(pattern, NOfM):
        groups = boxes(shape, 1, pattern.m, 1)
        choices = [list(itertools.combinations(g, min(pattern.n, len(g)))) for g in groups]
        for kept in itertools.product(*choices):
            yield sorted(itertools.chain(*kept))
    else:
        kernels = boxes(shape, 1, 1, 0)
        for chosen in itertools.combinations(kernels, k):
            for shapes in itertools.product(pattern.shapes, repeat=k):
                pairs = zip(chosen, shapes, strict=True)
                yield [g[t] for g, bits in pairs for t in range(taps) if bits >> t & 1]


@pytest.mark.parametrize(
    ("pattern", "shape", "k"),
    [
        ("2x1", (4, 3, 2), 5),
        ("1x2", (3, 4, 2), 4),
        ("2x2", (5, 3), 3),
        ("filter", (5, 2, 3, 1), 2),
        ("channel", (2, 6, 2), 3),
        ("kernel", (2, 3, 2, 2), 4),
        (Blocks(2, 0, 1), (4, 2, 3), 2),
        ("2:4", (2, 6), None),
        ("1:3", (1, 6, 2), None),
        (KernelShapes((0b0011, 0b0110, 0b1001), taps=4), (2, 2, 2, 2), 3),
    ],
)
def test_it_is_the_euclidean_projection(pattern, shape, k):
    generator = torch.Generator().manual_seed(len(shape))
    w, u = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    z, dual = torch.zeros_like(w), u.clone()
    admm_project_([w], [z], [dual], k=k, pattern=pattern)
    v = w + u
    distances = []
    for support in admissible(find_pattern(pattern), shape, k):
        near = torch.zeros(v.numel(), dtype=v.dtype)
        near[support] = v.flatten()[support]
        distances.append((v.flatten() - near).square().sum())
    torch.testing.assert_close((v - z).square().sum(), min(distances))
    torch.testing.assert_close(dual, v - z)


def test_ties_go_to_the_first_group_and_the_first_shape():
    ones = torch.ones(4, 4)
    assert topk_mask(ones, 1, pattern="2x2").nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert topk_mask(ones, pattern="2:4").int().tolist() == [[1, 1, 0, 0]] * 4
    shapes = KernelShapes((0b1100, 0b0011), taps=4)
    assert topk_mask(torch.ones(1, 1, 2, 2), pattern=shapes).int().flatten().tolist() == [
        0,
        0,
        1,
        1,
    ]


def test_a_sparsity_counts_groups_and_with_shapes_weights():
    w = torch.randn(8, 6, 3, 3)
    z, u = torch.zeros_like(w), torch.zeros_like(w)
    admm_project_([w], [z], [u], sparsity=0.75, pattern="filter")
    assert (z != 0).flatten(1).any(1).sum() == 2
    shapes = KernelShapes((0b000_011_011, 0b110_110_000))
    admm_project_([w], [z], [u.zero_()], sparsity=2 / 3, pattern=shapes)
    assert (z != 0).sum() == 8 * 6 * 9 // 3
    admm_project_([w], [z], [u.zero_()], pattern=shapes)
    assert (z != 0).sum() == 8 * 6 * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: topk_mask(t, 1, pattern="rows"), "unknown pattern 'rows'; known: N:M, RxC, cha"),
        (lambda t: topk_mask(t, 1, pattern="4:2"), "0 < N < M <= 32, got 4:2"),
        (lambda t: topk_mask(t, 1, pattern="2:4"), "2:4 fixes the sparsity at 0.5"),
        (lambda t: topk_mask(t, 5, pattern="2x2"), r"outside \[0, 4\], the number of groups"),
        (lambda t: topk_mask(t, pattern="2x2"), "give either sparsity or k"),
        (lambda t: topk_mask(t, 1, pattern=Blocks(-1)), "extents are >= 0"),
        (lambda t: topk_mask(t, 1, pattern=KernelShapes((1, 3))), "1 to 16 different shapes"),
        (
            lambda t: admm_project_(
                [t.view(1, 4, 2, 2)],
                [t.view(1, 4, 2, 2)],
                [t.view(1, 4, 2, 2)],
                sparsity=0.2,
                pattern=KernelShapes((0b11,), taps=4),
            ),
            "prune 50.0% of the weights by themselves",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(16.0).view(4, 4))


def test_patterns():
    mask = torch.ones(4, 3, 3, 3, dtype=torch.bool)
    assert classify(mask) == classify(torch.ones(4, 3, dtype=torch.bool)) == "dense"
    filters, channels, elements = mask.clone(), mask.clone(), mask.clone()
    filters[1], channels[:, 1], elements[0, 0, 1, 1] = False, False, False
    assert classify(filters) == "filter"
    assert classify(channels) == "channel"
    assert classify(elements) == "element"
    assert classify(torch.tensor([[True, False], [True, False]])) == "channel"
