"""The sanity controls: what they keep of each layer, and what they do not."""

from collections import Counter

import pytest
import torch

pytest.importorskip("hypothesis", reason="it draws the cases")

from hypothesis import given, settings
from hypothesis import strategies as st

from sparselth.pruning import inverted_masks, shuffled_masks, shuffled_weights


def layers():
    """Return weights of several layouts and dtypes, one with ties, and masks of some of them."""
    weights = {
        "conv": torch.randn(8, 6, 3, 3).contiguous(memory_format=torch.channels_last),
        "linear": torch.randn(20, 30).t(),
        "ties": torch.randint(-2, 3, (15, 15)).to(torch.bfloat16),
        "dense": torch.randn(4, 4),
        "bias": torch.randn(4),
    }
    masks = {
        "ties": torch.rand(15, 15) < 0.5,
        "conv": torch.rand(8, 6, 3, 3) < 0.3,
        "linear": torch.rand(20, 30).t() < 0.1,
    }
    return weights, masks


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_shuffled_masks_keep_the_count_of_each_layer():
    _, masks = layers()
    before = {name: mask.clone() for name, mask in masks.items()}
    shuffled = shuffled_masks(masks, seed=3)
    assert list(shuffled) == list(masks)
    for name, mask in masks.items():
        assert shuffled[name].dtype == torch.bool
        assert shuffled[name].shape == mask.shape
        assert int(shuffled[name].sum()) == int(mask.sum())
        assert not torch.equal(shuffled[name], mask)
    assert same(masks, before)


def test_shuffled_masks_follow_seed_and_name():
    _, masks = layers()
    shuffled = shuffled_masks(masks, 3)
    assert same(shuffled_masks(masks, 3), shuffled)
    backwards = shuffled_masks(dict(reversed(masks.items())), 3)
    assert all(torch.equal(backwards[name], shuffled[name]) for name in masks)
    other = shuffled_masks(masks, 4)
    assert not any(torch.equal(other[name], shuffled[name]) for name in masks)
    alike = shuffled_masks({"a": masks["conv"], "b": masks["conv"]}, 3)
    assert not torch.equal(alike["a"], alike["b"])


def test_shuffling_prefers_no_place():
    mask = torch.tensor([[True, False], [False, False]])
    weight, kept = torch.arange(1.0, 5.0), torch.ones(4, dtype=torch.bool)
    places, first = Counter(), Counter()
    for seed in range(1000):
        places[int(shuffled_masks({"w": mask}, seed)["w"].flatten().nonzero())] += 1
        first[int(shuffled_weights({"w": weight}, {"w": kept}, seed)["w"][0])] += 1
    for counts in (places, first):
        assert len(counts) == 4
        assert max(abs(n - 250) for n in counts.values()) < 5 * (1000 * 0.25 * 0.75) ** 0.5


def smallest_of(values, count):
    return sorted(sorted(range(len(values)), key=lambda i: (abs(values[i]), i))[:count])


@pytest.mark.parametrize("unit", ["filter", "channel"])
def test_units_of_transposed_convolutions_move_along_their_own_axis(unit):
    whole = torch.tensor([True, False] * 8)
    plain, turned = torch.ones(16, 5, 3, 3), torch.ones(5, 16, 3, 3)
    if unit == "channel":
        plain, turned = turned, plain
    masks = {
        "plain": plain.bool() & whole.view((-1, 1, 1, 1) if len(plain) == 16 else (1, -1, 1, 1)),
        "turned": turned.bool() & whole.view((1, -1, 1, 1) if len(turned) == 5 else (-1, 1, 1, 1)),
    }
    shuffled = shuffled_masks(masks, 3, unit=unit)
    for name, mask in masks.items():
        assert not torch.equal(shuffled[name], mask)
        axis = 0 if len(mask) == 16 else 1
        kept = shuffled[name].transpose(0, axis).flatten(1)
        assert torch.equal(kept.any(1), kept.all(1))
        assert int(kept.all(1).sum()) == 8


def test_inverted_masks_keep_the_smallest_of_each_layer():
    weights, masks = layers()
    inverted = inverted_masks(masks, weights)
    assert list(inverted) == list(masks)
    for name, mask in masks.items():
        assert inverted[name].shape == mask.shape
        smallest = smallest_of(weights[name].flatten().tolist(), int(mask.sum()))
        assert inverted[name].flatten().nonzero().flatten().tolist() == smallest


@given(st.lists(st.integers(-3, 3), max_size=12), st.data())
@settings(max_examples=100)
def test_inverted_ties_go_to_the_lowest_index(values, data):
    mask = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))),
        dtype=torch.bool,
    )
    weight = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    found = inverted_masks({"w": mask}, {"w": weight})["w"].nonzero().flatten().tolist()
    assert found == smallest_of(values, int(mask.sum()))


def test_shuffled_weights_permute_what_remains_and_nothing_else():
    weights, masks = layers()
    before = {name: weight.clone() for name, weight in weights.items()}
    shuffled = shuffled_weights(weights, masks, seed=3)
    assert list(shuffled) == list(weights)
    assert same(weights, before)
    for name, mask in masks.items():
        old, new = weights[name], shuffled[name]
        assert (new.dtype, new.shape) == (old.dtype, old.shape)
        assert torch.equal(new[~mask], old[~mask])
        assert Counter(new[mask].tolist()) == Counter(old[mask].tolist())
        assert not torch.equal(new[mask], old[mask])
    assert shuffled["dense"] is weights["dense"]
    assert shuffled["bias"] is weights["bias"]


def test_shuffled_weights_follow_seed_and_name():
    weights, masks = layers()
    shuffled = shuffled_weights(weights, masks, 3)
    assert same(shuffled_weights(weights, masks, 3), shuffled)
    other = shuffled_weights(weights, masks, 4)
    assert not any(torch.equal(other[name], shuffled[name]) for name in masks)
    conv, mask = weights["conv"], masks["conv"]
    alike = shuffled_weights({"a": conv, "b": conv}, {"a": mask, "b": mask}, 3)
    assert not torch.equal(alike["a"], alike["b"])


def test_parameters_come_back_as_tensors_without_a_graph():
    weight = torch.nn.Parameter(torch.randn(5, 5))
    new = shuffled_weights({"w": weight}, {"w": torch.eye(5) > 0}, 0)["w"]
    assert not new.requires_grad
    assert new.data_ptr() != weight.data_ptr()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_the_cpu_draws():
    weights, masks = layers()

    def on_gpu(tensors):
        return {name: tensor.cuda() for name, tensor in tensors.items()}

    for found, want in (
        (shuffled_masks(on_gpu(masks), 3), shuffled_masks(masks, 3)),
        (inverted_masks(on_gpu(masks), on_gpu(weights)), inverted_masks(masks, weights)),
        (shuffled_weights(on_gpu(weights), on_gpu(masks), 3), shuffled_weights(weights, masks, 3)),
    ):
        assert all(tensor.is_cuda for tensor in found.values())
        assert same({name: tensor.cpu() for name, tensor in found.items()}, want)


MASK = torch.tensor([True, False, True])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: shuffled_masks({"w": MASK.float()}, 0),
            "the mask of w must be bool, got torch.fl",
        ),
        (lambda: inverted_masks({"w": MASK}, {"v": torch.ones(3)}), r"masks of \['w'\], but no su"),
        (
            lambda: inverted_masks({"w": MASK}, {"w": torch.ones(4)}),
            r"the mask of w has shape \(3,",
        ),
        (lambda: inverted_masks({"w": MASK}, {"w": torch.ones(3) / 0}), "w holds NaN or Inf"),
        (
            lambda: shuffled_weights({"v": torch.ones(3)}, {"w": MASK}, 0),
            r"masks of \['w'\], but no",
        ),
        (lambda: shuffled_weights({"w": torch.ones(4)}, {"w": MASK}, 0), "the mask of w has shape"),
        (lambda: shuffled_weights({"w": torch.ones(3)}, {"w": MASK.int()}, 0), "w must be bool"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
