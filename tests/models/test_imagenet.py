"""torchvision's networks: built by name, pruned like the others, trained for a step."""

import sys

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth import SparselthError, models
from sparselth.pruning import prunable_parameters

torchvision = pytest.importorskip("torchvision")

# Of each: its parameters for 1000 classes, as torchvision lists them, and what stays dense.
NETWORKS = {
    "mobilenetv2-imagenet": (3_504_872, {"features.0.0.weight", "classifier.1.weight"}),
    "resnet18-imagenet": (11_689_512, {"conv1.weight", "fc.weight"}),
    "resnet50-imagenet": (25_557_032, {"conv1.weight", "fc.weight"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_torchvisions(name):
    model = models.build(name, num_classes=1000)
    assert type(model).__module__.startswith("torchvision.models.")
    assert sum(p.numel() for p in model.parameters()) == NETWORKS[name][0]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_convolution_and_the_classifier_are_not_prunable(name):
    model = models.build(name, num_classes=7)
    weights = {
        f"{key}.weight"
        for key, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    assert weights - set(prunable_parameters(model)) == NETWORKS[name][1]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sparse_training_step(name):
    torch.manual_seed(0)
    model = models.build(name, num_classes=7)
    masks = sl.find_masks(model, sparsity=0.9)
    sl.sparsify(model, masks)
    optimizer = sl.optim.SGD(model.parameters(), lr=0.01)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    out = model(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 7)
    nn.functional.cross_entropy(out, torch.tensor([0, 3])).backward()
    optimizer.step()
    after = dict(model.named_parameters())
    for key, mask in masks.items():
        assert not after[key][~mask].any()
        assert not torch.equal(after[key], before[key])


def test_width_scales_mobilenet_alone():
    half = models.build("mobilenetv2-imagenet", num_classes=1000, width=0.5)
    assert sum(p.numel() for p in half.parameters()) == 1_968_680
    for name in ("resnet18-imagenet", "resnet50-imagenet"):
        with pytest.raises(SparselthError, match=r"width=0.5, expected 1.0.*mobilenetv2-imagenet"):
            models.build(name, width=0.5)


@pytest.mark.parametrize("name", NETWORKS)
def test_gray_images_are_refused(name):
    with pytest.raises(SparselthError, match=r"in_channels=1, expected 3"):
        models.build(name, in_channels=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_torchvision_the_error_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SparselthError, match=r"pip install 'sparselth\[images\]'"):
        models.build(name)
