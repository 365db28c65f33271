"""find_masks and sparsify say how much of a model masks cover, and what is left out."""

import pytest
import torch
from torch import nn

import sparselth as sl


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.up = nn.Parameter(torch.randn(4, 8, 8))
        self.memory = nn.LSTM(8, 8)
        self.out = nn.Linear(8, 8)


def test_find_masks_and_sparsify_say_what_is_covered_and_what_is_left_out(caplog):
    with pytest.warns(UserWarning, match="left out") as said:
        masks = sl.find_masks(Experts(), sparsity=0.5, exclude=())
    (warning,) = said
    assert "cover 96 of 864 weights (11.1%)" in str(warning.message)
    assert "up (a parameter of Experts" in str(warning.message)
    assert "memory.weight_ih_l0" in str(warning.message)
    assert warning.filename == __file__
    with caplog.at_level("INFO", logger="sparselth"):
        model = sl.sparsify(Experts(), masks)
    assert "masks cover 96 of 864 weights (11.1%); left out: up" in caplog.text
    found = sl.coverage(model)
    assert (found.covered, found.total) == (96, 864)
    assert found.share == pytest.approx(1 / 9)


def test_layers_left_out_on_purpose_are_no_gap(recwarn):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    masks = sl.find_masks(model)
    assert not recwarn
    assert "0.weight (excluded)" in str(sl.coverage(model, masks))
