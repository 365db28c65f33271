"""Averages of weights over training: SWA and exponential moving averages."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import sparselth as sl

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 4)),
    )


def train(model, average, steps=3):
    optimizer = sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)


# Name -> options of the average.
AVERAGES = {
    "equal": {},
    "exponential": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "exponential, buffers too": {"multi_avg_fn": get_ema_multi_avg_fn(0.9), "use_buffers": True},
    "a function": {"avg_fn": lambda average, current, count: 0.5 * (average + current)},
}


@pytest.mark.parametrize("made", ["after", "before, made sparse too"])
@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_on_the_masks_and_averages_what_is_kept(name, made):
    model, dense = network(), network()
    masks = sl.find_masks(model, sparsity=0.8)
    if made == "after":
        average = AveragedModel(sl.sparsify(model, masks), **AVERAGES[name])
    else:
        average = AveragedModel(model, **AVERAGES[name])
        sl.sparsify(model, masks)
        sl.sparsify(average.module, masks)
    sl.sparsify(dense, masks)
    sl.densify(dense)
    theirs = AveragedModel(dense, **AVERAGES[name])
    train(model, average)
    # The dense one takes the weights of the sparse one's training, step by step.
    again = sl.sparsify(network(), masks)
    optimizer = sl.optim.SGD(again.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        again(X).square().mean().backward()
        optimizer.step()
        dense.load_state_dict(sl.densify(copy.deepcopy(again)).state_dict())
        theirs.update_parameters(dense)
    torch.testing.assert_close(list(average.parameters()), list(theirs.parameters()))
    assert sl.sparsity(average) == sl.sparsity(masks)
    for path, mask in masks.items():
        assert not average.module.get_parameter(path)[~mask].any()
    update_bn([X], average)
    update_bn([X], theirs)
    average.eval()
    torch.testing.assert_close(average(X), theirs.eval()(X))
    torch.testing.assert_close(sl.densify(copy.deepcopy(average))(X), average(X))


def test_an_average_follows_masks_that_change():
    model = network()
    masks = sl.find_masks(model, sparsity=0.5)
    average = AveragedModel(sl.sparsify(model, masks))
    train(model, average, steps=1)
    tighter = sl.find_masks(model, sparsity=0.9)
    sl.sparsify(model, tighter)
    train(model, average, steps=1)
    assert sl.sparsity(average) == sl.sparsity(tighter)
    for path, mask in tighter.items():
        assert not average.module.get_parameter(path)[~mask].any()


def test_an_average_of_before_is_refused_by_torch_until_it_is_made_sparse_too():
    model = network()
    average = AveragedModel(model)
    masks = sl.find_masks(model, sparsity=0.8)
    sl.sparsify(model, masks)
    with pytest.raises(ValueError, match="longer"):  # it lacks the buffers that the masks are
        train(model, average, steps=1)
    sl.sparsify(average.module, masks)
    train(model, average, steps=1)
    assert sl.sparsity(average) == sl.sparsity(masks)


def test_equal_averages_of_buffers_are_refused_by_torch():
    # It subtracts buffers, which bool tensors do not know: `update_bn` is what torch advises.
    model = sl.sparsify(network(), sl.find_masks(network(), sparsity=0.8))
    average = AveragedModel(model, use_buffers=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="bool"):
        train(model, average, steps=2)
