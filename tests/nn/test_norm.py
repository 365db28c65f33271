"""Batch norms become lane norms where convolutions are sparse, and plain again."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.nn import LaneBatchNorm2d
from sparselth.ops.lanes.convert import LaneTensor


def net():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True)),
    )


def masks_for(model, density):
    return {"4.weight": torch.rand_like(model[4].weight) < density}


@pytest.mark.usefixtures("traveling")
def test_norms_follow_the_sparsity_of_the_convolutions():
    model = net()
    keys = list(model.state_dict())
    sl.sparsify(model, masks_for(model, 0.05))
    assert type(model[1]) is type(model[5]) is LaneBatchNorm2d
    assert set(copy.deepcopy(model).state_dict()) == {*keys, "4.weight_mask"}
    sl.sparsify(model, masks_for(model, 0.95))
    assert type(model[1]) is nn.BatchNorm2d
    sl.sparsify(model, masks_for(model, 0.05))
    sl.densify(model)
    assert type(model[1]) is type(model[5]) is nn.BatchNorm2d
    assert list(model.state_dict()) == keys


@pytest.mark.usefixtures("traveling")
def test_a_dense_stem_enters_the_blocks():
    model = net()
    x = torch.randn(5, 3, 8, 8)
    plain = copy.deepcopy(model)
    masks = masks_for(model, 0.1)
    sl.sparsify(model, masks)
    with torch.no_grad():
        plain[4].weight.mul_(masks["4.weight"])
    between = {}
    model[3].register_forward_hook(lambda module, args, out: between.update(pooled=out))
    got, want = model(x), plain(x)
    assert isinstance(between["pooled"], LaneTensor)
    torch.testing.assert_close(got.dense(), want)
    got.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(model[0].weight.grad, plain[0].weight.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model[1].running_var, plain[1].running_var)


@pytest.mark.usefixtures("traveling")
def test_the_reference_stays_plain():
    model = net()
    sl.sparsify(model, masks_for(model, 0.1))
    with sl.use_backend("reference"):
        assert type(model(torch.randn(2, 3, 8, 8))) is torch.Tensor
