"""Names that changed are found by their old ones, with a warning that says the new."""

import pytest
import torch
from torch import nn

import sparselth as sl


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (sl.nn, "BlockedBatchNorm2d", "LaneBatchNorm2d"),
        (sl.nn, "EntryConv2d", "StemConv2d"),
        (sl.optim, "masked", "keep_on_mask"),
        (sl.training, "AdmmSchedule", "ADMMSchedule"),
        (sl.training, "Regulariser", "Regularizer"),
    ],
)
def test_an_old_name_is_the_new_one(module, old, new):
    with pytest.warns(DeprecationWarning, match=rf"{old} is called .*{new} now"):
        assert getattr(module, old) is getattr(module, new)
    assert old not in module.__all__


def test_other_names_are_missed_as_ever():
    with pytest.raises(AttributeError, match=r"module .sparselth\.nn. has no attribute .Blocked."):
        _ = sl.nn.Blocked


def test_an_old_argument_is_taken_by_its_new_name():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    data, recipe = (torch.randn(8, 4), torch.arange(8) % 2), sl.Recipe(epochs=1, batch_size=4)
    schedule = sl.training.ADMMSchedule(sl.ADMM(model, sparsity=0.5, exclude=()), every=1)
    with pytest.warns(DeprecationWarning, match=r"train\(regularizer=...\)"):
        sl.train(model, data, recipe, regulariser=schedule)
    assert schedule.residuals
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match="and its old name 'regulariser'"):
            sl.train(model, data, recipe, regulariser=schedule, regularizer=schedule)


def test_arguments_by_place_are_taken_by_their_names():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1))
    with pytest.warns(DeprecationWarning, match="find_masks takes keywords after the first 1") as w:
        masks = sl.find_masks(model, "magnitude", 0.5, exclude=())
    assert w[0].filename == __file__
    assert sl.sparsity(masks) == 0.5
    with pytest.warns(DeprecationWarning, match="ADMM takes keywords after the first 1:"):
        assert sl.ADMM(model, 0.5, 0.25).rho == 0.25
    with pytest.raises(TypeError, match="positional"):
        sl.find_masks(model, *range(9))
    with pytest.raises(TypeError):
        sl.find_masks(model, "magnitude", score="random")
