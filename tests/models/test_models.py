"""The paper's networks: sizes, names and errors."""

import pytest
import torch

from sparselth import SparselthError, models
from sparselth.pruning import prunable_parameters

PRUNABLE = {
    "conv4": 2_420_736,
    "mobilenetv2": 2_188_896,
    "resnet18": 11_157_504,
    "resnet20": 269_824,  # as the paper has it, like VGG-11
    "resnet32": 463_360,
    "resnet56": 850_432,
    "vgg11": 9_216_000,
    "vgg16": 14_708_736,
}


@pytest.mark.parametrize(("name", "prunable"), PRUNABLE.items())
def test_prunable_weights(name, prunable):
    parameters = prunable_parameters(models.build(name, num_classes=10, in_channels=3))
    assert sum(p.numel() for p in parameters.values()) == prunable


def test_stem_and_classifier_are_not_prunable():
    names = set(prunable_parameters(models.build("resnet20")))
    assert "stages.0.0.conv1.weight" in names
    assert "stages.1.0.downsample.0.weight" in names
    assert not names & {"stem.weight", "classifier.weight"}


@pytest.mark.parametrize("name", PRUNABLE)
@pytest.mark.parametrize("width", [0.125, 0.5, 1.5])
def test_any_width_runs_and_learns(name, width):
    model = models.build(name, num_classes=7, in_channels=1, width=width)
    out = model(torch.randn(2, 1, 32, 32))
    assert out.shape == (2, 7)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", PRUNABLE)
def test_images_of_64_pixels_fit_too(name):
    model = models.build(name, num_classes=200, width=0.125)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 200)


def test_sizes_are_those_that_torchvision_and_the_papers_have():
    sizes = {n: sum(p.numel() for p in models.build(n).parameters()) for n in PRUNABLE}
    assert sizes["mobilenetv2"] == 2_236_682  # torchvision's, for ten classes
    assert sizes["conv4"] == 2_425_930  # Frankle and Carbin: 2.4 M
    assert round(sizes["resnet18"] / 1e6, 2) == 11.17
    assert {n for n in models.names() if not n.endswith("-imagenet")} == set(PRUNABLE)


def test_seed_decides_the_weights():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(models.build("resnet20", width=0.25).stem.weight)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_convolutions_have_kaiming_fan_out_spread():
    torch.manual_seed(0)
    weight = models.build("resnet20").stages[2][2].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)


def test_unknown_name_lists_the_known():
    with pytest.raises(SparselthError, match="resnet50-imagenet, resnet56, vgg11"):
        models.build("resnet2000")


def test_impossible_width_is_refused():
    with pytest.raises(SparselthError, match="width"):
        models.build("resnet20", width=0.0)
