"""What cannot be in the slot of a weight or a mask is refused, and leaves the module as it was."""

import pytest
import torch
from support.mask_writers import Case, raw_state
from torch import nn

import sparselth as sl

pytestmark = pytest.mark.usefixtures("one_thread")

REFUSED = {
    "mask of another shape": (
        lambda c: setattr(c.owner, "weight_mask", torch.ones(2) > 0),
        "shape",
    ),
    "mask of floats": (lambda c: setattr(c.owner, "weight_mask", torch.ones(8, 4, 3, 3)), "bool"),
    "no mask": (lambda c: setattr(c.owner, "weight_mask", None), "must be a bool tensor"),
    "no mask registered": (
        lambda c: c.owner.register_buffer("weight_mask", None),
        "must be a bool tensor",
    ),
    "mask registered of another shape": (
        lambda c: c.owner.register_buffer("weight_mask", torch.ones(2) > 0),
        "shape",
    ),
    "no weight": (lambda c: setattr(c.owner, "weight", None), "stays a parameter"),
    "a plain tensor": (lambda c: setattr(c.owner, "weight", torch.ones(8, 4, 3, 3)), "parameter"),
    "another size": (
        lambda c: setattr(c.owner, "weight", nn.Parameter(torch.ones(8, 4, 5, 5))),
        "does not fit the mask",
    ),
    "weight deleted": (lambda c: delattr(c.owner, "weight"), "cannot be deleted"),
    "mask deleted": (lambda c: delattr(c.owner, "weight_mask"), "cannot be deleted"),
}


@pytest.mark.parametrize("write", REFUSED)
def test_a_write_that_cannot_hold_raises_and_changes_nothing(write):
    case = Case("conv2d")
    refused, message = REFUSED[write]
    want, state = case.model(case.x), raw_state(case.model)
    for _ in range(2):
        with pytest.raises((sl.SparselthError, TypeError), match=message):
            refused(case)
        assert raw_state(case.model).keys() == state.keys()
        assert torch.equal(case.model(case.x), want)


@pytest.mark.parametrize("optimizer", [sl.optim.SGD, torch.optim.SGD])
def test_a_mask_slipped_in_that_does_not_fit_is_refused_by_a_step(optimizer):
    case = Case("conv2d")
    steps = optimizer(case.model.parameters(), lr=0.1)
    case.model(case.x).sum().backward()
    case.owner._buffers["weight_mask"] = torch.ones(2) > 0
    weight, bias = case.weight.detach().clone(), case.owner.bias.detach().clone()
    with pytest.raises(sl.SparselthError, match=r"has shape \(2,\), its weight \(8, 4, 3, 3\)"):
        steps.step()
    assert torch.equal(case.weight, weight)
    assert torch.equal(case.owner.bias, bias)


def test_a_mask_taken_out_of_its_slot_is_missed_by_name():
    case = Case("conv2d")
    del case.owner._buffers["weight_mask"]
    with pytest.raises(sl.SparselthError, match="weight_mask was taken out of the buffers"):
        case.model(case.x)


def test_registering_a_mask_says_whether_it_is_saved():
    case = Case("linear")
    case.owner.register_buffer("weight_mask", case.other, persistent=False)
    assert "0.weight_mask" not in case.model.state_dict()
    case.owner.register_buffer("weight_mask", case.other)
    assert "0.weight_mask" in case.model.state_dict()


def test_data_of_another_shape_is_noticed():
    case = Case("conv2d")
    case.weight.data = torch.ones(8, 4, 5, 5)
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=r"\(8, 4, 5, 5\) now, its mask \(8, 4, 3, 3\)"):
            case.model(case.x)
