"""Masks that change within the training loop: as by hand, and stopped and resumed exactly."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import SET, EdgePopup, GradualPruning, RigL
from sparselth.training import CheckpointError, Recipe, train

RECIPE = Recipe(epochs=4, learning_rate=0.1, batch_size=16)  # 4 steps each


def gradual(model):
    return GradualPruning(model, 0.8, end=12, every=3)


def _sparse(model):
    torch.manual_seed(3)
    sl.sparsify(model, sl.find_masks(model, score="random", sparsity=0.6))
    return model


def rigl(model):
    return RigL(_sparse(model), end=14, every=3)


def sets(model):
    return SET(_sparse(model), end=14, every=4)


def popup(model):
    torch.manual_seed(3)
    return EdgePopup(model, 0.5)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def stopping(at):
    """Return a hook that stops the training in a forward."""
    forwards = iter(range(at))

    def stop(module, _):
        if module.training and next(forwards, None) is None:
            raise InterruptedError

    return stop


@pytest.mark.parametrize("method", [gradual, rigl, sets, popup])
@pytest.mark.parametrize("stop", [3, 7, 9])
def test_stopped_anywhere_it_ends_as_if_it_had_not_been(make_model, digits, tmp_path, method, stop):
    whole = make_model()
    pruning = method(whole)
    train(whole, digits, RECIPE, pruning=pruning)
    wanted, masks = state(whole), sl.masks_of(whole)

    model = make_model()
    options = {"checkpoint": tmp_path, "checkpoint_every": 2}
    pruning = method(model)
    hook = model.register_forward_pre_hook(stopping(stop))
    with pytest.raises(InterruptedError):
        train(model, digits, RECIPE, pruning=pruning, **options)
    hook.remove()
    again = make_model()
    train(again, digits, RECIPE, pruning=method(again), **options)
    for name, mask in sl.masks_of(again).items():
        assert torch.equal(mask, masks[name]), name
    for name, tensor in state(again).items():
        assert torch.equal(tensor, wanted[name]), name


def test_what_was_pruned_in_the_loop_is_what_was_asked(make_model, digits):
    model = make_model()
    train(model, digits, RECIPE, pruning=gradual(model))
    assert sl.sparsity(model) == pytest.approx(0.8, abs=0.01)


def test_a_checkpoint_knows_whether_masks_change(make_model, digits, tmp_path):
    model = make_model()
    train(model, digits, RECIPE, pruning=gradual(model), checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="was trained with pruning, this run is without"):
        train(_sparse(make_model()), digits, RECIPE, checkpoint=tmp_path)
    train(make_model(), digits, RECIPE, checkpoint=tmp_path / "plain")
    other = make_model()
    with pytest.raises(CheckpointError, match="was trained without pruning, this run is with"):
        train(other, digits, RECIPE, pruning=gradual(other), checkpoint=tmp_path / "plain")


class Half:
    def step(self):
        return False


@pytest.mark.parametrize(
    ("pruning", "recipe", "says"),
    [
        (Half(), RECIPE, "pruning must be a sparselth.pruning.GradualPruning"),
        (GradualPruning, RECIPE, "pruning must be a sparselth.pruning.GradualPruning"),
        (
            RigL(sl.sparsify(nn.Linear(4, 4), {"weight": torch.eye(4) > 0}), end=200),
            Recipe(epochs=1, step="compile"),
            'RigL changes do not go with step="compile"',
        ),
        (
            GradualPruning(nn.Sequential(nn.Linear(4, 4)), 0.5, end=3, exclude=()),
            Recipe(epochs=1, step="graph"),
            'GradualPruning changes do not go with step="graph"',
        ),
    ],
)
def test_bad_input(make_model, digits, pruning, recipe, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            train(make_model(), digits, recipe, pruning=pruning)
