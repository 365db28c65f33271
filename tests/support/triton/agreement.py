"""What a Triton kernel must agree with: the oracle, on whatever device the tensors lie.

Each function takes the package that holds the kernels, so that one with a seeded defect can be
passed, and fails where it and the oracle differ.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import ModuleType

import torch
from hypothesis import strategies as st

from sparselth.ops import reference
from sparselth.ops.patterns import Blocks, KernelShapes, NOfM, axes, find_pattern
from sparselth.ops.reference import ranking
from support.strategies import patterned_lists, tensor_lists

OPS = ("topk_mask", "admm_project_", "weight_overlap", "masked_sgd_", "masked_adamw_")
CONVOLUTIONS = ("masked_conv2d", "masked_conv2d_grad_input", "masked_conv2d_grad_weight")

SHAPES = ((0,), (1,), (7,), (3, 5), (4, 3, 3, 3), (300,), (701,))
WEIGHTS = (
    *((0,), (7,), (), (5, 0, 3, 3), (3, 5), (4, 3, 3, 3), (9, 20, 3, 3), (17, 33, 1, 1)),
    *((2, 3, 5, 5), (3, 70, 2), (1, 600), (300, 2)),
)


def kernel(package: ModuleType, op: str):
    """Return the launcher of an op."""
    return getattr(importlib.import_module(f"{package.__name__}.{op.rstrip('_')}"), op)


def lists(shapes, weights, dtypes) -> st.SearchStrategy:
    """Draw (tensors, k, global_, encoded pattern), of entries or of a pattern's groups."""
    return st.one_of(
        tensor_lists(shapes, dtypes).map(lambda case: (*case, [])),
        patterned_lists(weights, dtypes).map(lambda case: (*case[:3], case[3].encode())),
    )


def same_masks(package, case, device="cpu") -> None:
    tensors, k, global_, pattern = case
    tensors = [t.to(device) for t in tensors]
    masks, nonfinite = kernel(package, "topk_mask")(tensors, k, global_, pattern)
    want, counted = reference.topk_mask(tensors, k, global_, pattern)
    for got, expected in zip(masks, want, strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(nonfinite, counted)


def same_projection(package, case, allow_nonfinite, device="cpu") -> None:
    weights, k, global_, pattern = case
    weights = [w.to(device) for w in weights]
    torch.manual_seed(0)
    wanted = [[torch.randn_like(w) for w in weights] for _ in range(2)]
    z, u = ([t.clone() for t in tensors] for tensors in wanted)
    got = kernel(package, "admm_project_")(weights, z, u, k, global_, pattern, allow_nonfinite)
    want = reference.admm_project_(weights, *wanted, k, global_, pattern, allow_nonfinite)
    for a, b in zip(z + u, wanted[0] + wanted[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12, equal_nan=True)


def same_overlap(package, case, density, shares, device="cpu") -> None:
    """density: of the masks, or None for none.  shares: of what the masks keep, as k."""
    a = [t.to(device) for t in case[0]]
    torch.manual_seed(0)
    b = [torch.randn_like(t) for t in a]
    b = [torch.where(torch.rand_like(t) < 0.5, *pair) for t, *pair in zip(b, a, b, strict=True)]
    masks = [torch.rand(t.shape, device=device) < (density or 0) for t in a]
    kept = [t.numel() if density is None else int(m.sum()) for t, m in zip(a, masks, strict=True)]
    k = [int(share * n) for n in kept for share in shares]
    given = [] if density is None else masks
    got = kernel(package, "weight_overlap")(a, b, given, k)
    assert torch.equal(got, reference.weight_overlap(a, b, given, k))


def same_step(package, sizes, dtype, masked, settings, device="cpu") -> None:
    """settings: lr, momentum, dampening, weight_decay, nesterov, rho."""
    torch.manual_seed(0)
    weights, grads, momenta, z, u = (
        [torch.randn(n, device=device).to(dtype) for n in sizes] for _ in range(5)
    )
    masks = [torch.rand(n, device=device) < 0.5 for n in sizes] if masked else []
    for mask, weight, momentum in zip(masks, weights, momenta, strict=False):
        weight[~mask], momentum[~mask] = torch.nan, torch.nan  # must become zeros all the same
    pair = (z, u) if settings[5] else ([], [])
    got_w, got_v = ([t.clone() for t in tensors] for tensors in (weights, momenta))
    kernel(package, "masked_sgd_")(
        got_w, grads, got_v if settings[1] else [], masks, *pair, *settings
    )
    # The kernel computes 16-bit tensors in float32: compare with the oracle in float64.
    want_w, want_v, wide, *pair = (
        [t.double() for t in tensors] for tensors in (weights, momenta, grads, *pair)
    )
    reference.masked_sgd_(want_w, wide, want_v, masks, *pair, *settings)
    eps = torch.finfo(dtype).eps
    compared = [(got_w, want_w)] + [(got_v, want_v)] * (settings[1] != 0)
    for got, want in compared:
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=4 * eps, atol=4 * eps)


def settings_of_steps() -> st.SearchStrategy:
    """Draw what `same_step` takes as settings."""
    return st.tuples(
        st.just(0.1),
        st.sampled_from([0.0, 0.9]),
        st.sampled_from([0.0, 0.3]),
        st.sampled_from([0.0, 0.01]),
        st.booleans(),
        st.sampled_from([0.0, 0.02]),
    )


def same_adamw(package, sizes, dtype, masked, settings, device="cpu") -> None:
    """settings: whether each tensor has a step of its own; step, beta1, eps, weight_decay, rho."""
    torch.manual_seed(0)
    own_steps, step, beta1, eps, weight_decay, rho = settings
    weights, grads, means, squares, z, u = (
        [torch.randn(n, device=device).to(dtype) for n in sizes] for _ in range(6)
    )
    squares = [square.abs() for square in squares]
    masks = [torch.rand(n, device=device) < 0.5 for n in sizes] if masked else []
    for tensors in (weights, means, squares):
        for mask, tensor in zip(masks, tensors, strict=False):
            tensor[~mask] = torch.nan  # must become zeros all the same
    lists = [weights, grads, means, squares, masks, *((z, u) if rho else ([], []))]
    steps = [torch.tensor(float(step + i), device=device) for i in range(len(sizes))]
    rest = (steps if own_steps else [], step, 0.1, beta1, 0.99, eps, weight_decay, rho)
    got = [[t.clone() for t in tensors] for tensors in lists]
    kernel(package, "masked_adamw_")(*got, *rest)
    # The kernel computes 16-bit tensors in float32: compare with the oracle in float64.
    want = [[t if t.dtype == torch.bool else t.double() for t in tensors] for tensors in lists]
    reference.masked_adamw_(*want, *rest)
    tolerance = 8 * torch.finfo(dtype).eps
    for i in (0, 2, 3):
        for a, b in zip(got[i], want[i], strict=True):
            torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


def settings_of_adamw() -> st.SearchStrategy:
    """Draw what `same_adamw` takes as settings."""
    return st.tuples(
        st.booleans(),
        st.sampled_from([1, 2, 1000]),
        st.sampled_from([0.0, 0.9]),
        st.sampled_from([1e-8, 1e-3]),
        st.sampled_from([0.0, 0.1]),
        st.sampled_from([0.0, 0.02]),
    )


def same_convolution(package, case, dtype, size, device="cpu", dead=None) -> None:
    """Compare a convolution's three passes, on blocks of `size`.

    case: a `ConvCase`.  dead: shares of its filters and channels that keep nothing; blocks are then
    those of the ordered mask. None for blocks of the mask as it is.
    """
    conv, groups = tuple(map(tuple, case.conv[:3])), case.groups
    x, weight, mask, bias = (t if t is None else t.to(device) for t in case.tensors(dtype))
    wide = [t if t is None else t.double() for t in (x, weight, bias)]
    blocks = importlib.import_module(f"{package.__name__}.blocks")
    orders = blocks.NO_ORDERS
    if dead is not None:
        mask = with_dead_channels(mask, dead, case.seed)
        orders = blocks.order_channels(mask)
    index = blocks.find_blocks(mask, groups, size, orders)
    if case.layout != "contiguous":  # of the weight and its mask too, as Module.to() makes them
        weight, mask = (t.contiguous(memory_format=torch.channels_last) for t in (weight, mask))
    y = kernel(package, "masked_conv2d")(x, weight, mask, bias, index, *conv)
    want_y = reference.masked_conv2d(wide[0], wide[1], mask, wide[2], None, *case.conv)
    positive = kernel(package, "masked_conv2d")(x, weight, mask, bias, index, *conv, relu=True)
    assert torch.equal(positive, y.relu())
    grad = torch.randn_like(y)
    dx = kernel(package, "masked_conv2d_grad_input")(grad, weight, mask, index, case.size, *conv)
    want_dx = reference.masked_conv2d_grad_input(
        grad.double(), wide[1], mask, None, list(case.size), *case.conv
    )
    dw = kernel(package, "masked_conv2d_grad_weight")(grad, x, mask, index, *conv)
    want_dw = reference.masked_conv2d_grad_weight(grad.double(), wide[0], mask, None, *case.conv)
    for got, want in ((y, want_y), (dx, want_dx), (dw, want_dw)):
        same_results(got, want, dtype)
    assert not dw[~mask].any(), "a pruned weight got a gradient"


def same_wide_convolution(package, case, shape, device="cpu", dtype=torch.float16) -> None:
    """Compare the two passes by copied boxes.  case: without groups.  shape: of blocks."""
    lists, kernels = (
        importlib.import_module(f"{package.__name__}.{name}")
        for name in ("wide_blocks", "masked_conv2d_tma")
    )
    _, padding, dilation, _ = case.conv
    conv = ([1, 1], padding, dilation, 1)
    x, weight, mask, bias = (t if t is None else t.to(device) for t in case.tensors(dtype))
    index = lists.cheapest_wide_blocks(mask, {shape: 1.0})
    if case.layout != "contiguous":  # of the weight and its mask too, as Module.to() makes them
        weight, mask = (t.contiguous(memory_format=torch.channels_last) for t in (weight, mask))
    packed = kernels.pack(weight, mask, index)
    y = kernels.masked_conv2d_tma(x, packed, bias, index, padding, dilation)
    positive = kernels.masked_conv2d_tma(x, packed, bias, index, padding, dilation, relu=True)
    assert torch.equal(positive, y.relu())
    wide = [t if t is None else t.double() for t in (x, weight, bias)]
    want_y = reference.masked_conv2d(wide[0], wide[1], mask, wide[2], None, *conv)
    same_results(y, want_y, dtype)
    grad, hw = torch.randn_like(y), list(case.size)
    dx = kernels.masked_conv2d_tma_grad_input(grad, packed, index, hw, padding, dilation)
    want_dx = reference.masked_conv2d_grad_input(grad.double(), wide[1], mask, None, hw, *conv)
    same_results(dx, want_dx, dtype)


def same_results(got, want, dtype) -> None:
    """Compare results of sums of many terms, which cancel.  want: in float64."""
    assert got.dtype == dtype
    assert got.shape == want.shape
    eps = torch.finfo(dtype).eps
    scale = float(want.abs().amax()) if want.numel() else 0.0
    torch.testing.assert_close(got.double(), want, rtol=2 * eps, atol=16 * eps * scale + eps)


# Shares of the filters and of the channels.
DEAD = st.tuples(*[st.sampled_from([0.0, 0.3, 0.7, 1.0])] * 2)


def ordered_cases(cases) -> st.SearchStrategy:
    """Draw cases without groups, of 1, 2 or 3 blocks of 16 channels, whole and not."""
    outs, ins = st.sampled_from([5, 32, 41]), st.sampled_from([7, 32, 35])
    return st.builds(
        lambda case, outs, ins: replace(case, groups=1, out_per_group=outs, in_per_group=ins),
        *(cases, outs, ins),
    )


def with_dead_channels(mask, dead, seed) -> torch.Tensor:
    """Return a mask without some of its filters and channels, drawn by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    kept = [torch.rand(mask.shape[axis], generator=generator) >= dead[axis] for axis in (0, 1)]
    kept = [channels.to(mask.device) for channels in kept]
    return mask & (kept[0][:, None] & kept[1])[:, :, None, None]


def same_scores(package, pattern, dtype, device="cpu") -> None:
    """Compare the scores of a pattern's groups, of which every bit tells the order of addition."""
    groups = find_pattern(pattern)
    kind, *settings = groups.encode()
    shapes = ((50, 80, 2), (7, 20, 9), (0, 3), (70, 33))
    torch.manual_seed(0)
    weights = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
    patterns = importlib.import_module(f"{package.__name__}.patterns")
    nonfinite = torch.zeros(len(weights), dtype=torch.int64, device=device)
    got = patterns.score_groups(weights, None, groups.encode(), nonfinite)
    want = [_scores_of(w.reshape(axes(w.shape)), kind, settings).flatten() for w in weights]
    assert got.counts == [len(scores) for scores in want]
    assert torch.equal(got.scores, torch.cat(want))


def _scores_of(cube, kind, settings):
    if cube.numel() == 0:
        return cube.double()
    if kind == 0:
        return ranking.block_scores(cube, settings)
    taps, *shapes = settings
    return ranking.best_shapes(cube, shapes if cube.shape[2] == taps else None)[0]


def same_ties(package, device="cpu") -> None:
    """Compare masks of equal entries and groups, of which a selection takes the first."""
    ones = [torch.ones(n, device=device) for n in (300, 5, 0, 301)]
    for k in (1, 299, 303, 450, 606):
        same_masks(package, (ones, [k], True, []))
    weight = torch.ones(3, 7, 3, 3, device=device)
    shapes = KernelShapes((0b111_000_000, 0b000_000_111, 0b000_111_000))
    for pattern, k in ((Blocks(2, 2), 20), (NOfM(2, 4), None), (shapes, 10)):
        counts = [] if k is None else [k]
        same_masks(package, ([weight], counts, False, pattern.encode()), device)
