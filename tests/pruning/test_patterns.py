"""Patterns by name and found from the weights: groups are pruned as one."""

import pytest
import torch
from support.small_nets import net

import sparselth as sl
from sparselth.ops.patterns import find_pattern
from sparselth.ops.reference.ranking import block_scores
from sparselth.pruning.patterns import kernel_shapes


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("pattern", ["4x1", "1x4", "4x4", "filter", "channel", "kernel"])
def test_groups_are_pruned_as_one(pattern, allocation):
    model = net()
    with torch.no_grad():
        model[1].weight.mul_(1.4)  # else "global" takes all channels from the other
    masks = sl.find_masks(model, sparsity=0.5, pattern=pattern, allocation=allocation)
    groups = find_pattern(pattern)
    kept = 0
    for mask in masks.values():
        scores = block_scores(mask.float().view(*mask.shape[:2], -1), groups.encode()[1:])
        sizes = torch.tensor([0.0, scores.max()])
        assert torch.isin(scores, sizes).all()  # a group stays whole or goes
        kept += int((scores > 0).sum())
    assert kept == sum(groups.groups(m.shape) for m in masks.values()) / 2


def test_every_kernel_keeps_a_shape_of_the_dictionary_found():
    model = net()
    shapes = kernel_shapes([model[1].weight], entries=4, count=3)
    masks = sl.find_masks(model, pattern=shapes)
    bits = (masks["1.weight"].flatten(2) << torch.arange(9)).sum(-1)
    assert set(bits.flatten().tolist()) == set(shapes.shapes)
    assert masks["2.weight"].all()  # 1x1 kernels are kept whole


def test_shapes_are_those_that_most_kernels_would_choose():
    weight = torch.zeros(4, 1, 3, 3)
    for kernel, taps in enumerate([(0, 1), (2, 8), (2, 8), (4, 5)]):
        weight[kernel].view(-1)[list(taps)] = torch.tensor([-2.0, 1.0])
    found = kernel_shapes([weight, torch.ones(3, 3)], entries=2, count=3)
    assert found.shapes == (1 << 2 | 1 << 8, 0b11, 1 << 4 | 1 << 5)
    with pytest.raises(ValueError, match="no weight has kernels of 25 taps"):
        kernel_shapes([weight], taps=25)


def test_two_of_four_by_name():
    mask = sl.find_masks(net(), pattern="2:4")["1.weight"]
    assert (mask.view(8, 2, 4, 3, 3).sum(2) == 2).all()
