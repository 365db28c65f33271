"""What networks cost, against counts by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparselth import SparselthError, models
from sparselth.pruning.flops import multiplications
from sparselth.study.execution.cost import parameters, saving, width_for


def image(channels, size):
    return torch.zeros(1, channels, size, size)


def test_resnet20_takes_the_41_million_that_are_known():
    counts = multiplications(models.build("resnet20"), image(3, 32))
    assert sum(counts.values()) == pytest.approx(41e6, rel=0.02)


def mask(kept, size):
    return torch.arange(size) < kept


def test_the_saving_weighs_layers_by_their_cost():
    counts = {"a": 900, "b": 100}
    assert saving(counts, {}) == 1.0
    assert saving(counts, {"a": mask(1, 4)}) == pytest.approx(1000 / 325)
    assert saving(counts, {"b": mask(1, 4)}) == pytest.approx(1000 / 925)
    assert saving(counts, {"a": mask(1, 4), "b": mask(2, 4)}) == pytest.approx(1000 / 275)


@given(st.integers(1, 16), st.integers(1, 16))
def test_alike_masks_save_by_their_density(kept, more):
    masks = {"a": mask(kept, 16), "b": mask(kept, 16)}
    assert saving({"a": 10 * more, "b": 7}, masks) == pytest.approx(16 / kept)


def build(width):
    return nn.Linear(max(1, round(100 * width)), 2)


@given(st.integers(4, 190))
def test_no_network_is_nearer_to_the_target(target):
    width = width_for(lambda width: build(width / 2), target, widest=1.0)
    nearest = min(abs(2 * inputs + 2 - target) for inputs in range(1, 51))
    assert abs(parameters(build(width / 2)) - target) == nearest
    assert 0 < width <= 1


def test_it_is_at_most_as_wide_as_it_may_be():
    assert width_for(build, 10_000, widest=0.5) == pytest.approx(0.5, rel=2e-3)
    assert parameters(build(width_for(build, 10_000, widest=0.5))) == 102


def test_where_even_the_narrowest_has_more():
    with pytest.raises(SparselthError, match="no narrower network has as few as 3 parameters"):
        width_for(build, 3, widest=1.0)


@pytest.mark.parametrize(("whole", "within"), [(0.5, 0.03), (0.25, 0.05)])
@pytest.mark.parametrize("name", ["resnet20", "vgg11", "mobilenetv2"])
def test_our_networks_come_close_to_a_tenth(name, whole, within):
    def narrow(width):
        return models.build(name, width=width)

    target = parameters(narrow(whole)) // 10
    found = parameters(narrow(width_for(narrow, target, widest=whole)))
    assert found == pytest.approx(target, rel=within)
