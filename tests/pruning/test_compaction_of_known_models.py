"""Compaction of networks that people use: those of the paper, of torchvision and of timm."""

import warnings

import pytest
import torch
from support.compacting import calibrated, count, randomized, same_outputs

import sparselth as sl
from sparselth import models

pytest.importorskip("torch_pruning", reason="it finds which channels go together")


def compacted(model, x):
    """Compact half of a model's channels, and compare."""
    torch.manual_seed(0)
    model = randomized(model)
    masks = sl.find_masks(model, sparsity=0.5, pattern="coupled", data=[(x, None)])
    sl.sparsify(model, masks)
    calibrated(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = sl.compact(model, x)
    assert same_outputs(model, small, x) > 1e-3
    return count(small) / count(sl.densify(model))


@pytest.mark.parametrize("name", ["resnet20", "vgg11", "mobilenetv2"])
def test_the_models_of_the_paper(name):
    model = models.build(name, num_classes=10, in_channels=3, width=0.25)
    assert compacted(model, torch.randn(2, 3, 32, 32)) < 0.7


OTHERS = {
    "mobilenet_v2": ("torchvision", {"width_mult": 0.2}, 0.6),
    "timm.resnet10t": ("timm", {"channels": (8, 16, 24, 32), "stem_width": 8}, 0.5),
    "timm.vit_tiny_patch16_224": ("timm", {"img_size": 32, "depth": 2, "embed_dim": 48}, 0.85),
    "timm.convnext_atto": ("timm", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}, 0.8),
}


@pytest.mark.filterwarnings("ignore:masks cover")
@pytest.mark.parametrize("name", OTHERS)
def test_models_of_others(name):
    family, options, most = OTHERS[name]
    library = pytest.importorskip(family)
    make = library.models.get_model if family == "torchvision" else library.create_model
    model = make(name.removeprefix("timm."), num_classes=5, **options)
    assert compacted(model, torch.randn(2, 3, 32, 32)) < most


def test_concatenations():
    DenseNet = pytest.importorskip("torchvision").models.DenseNet
    model = DenseNet(growth_rate=6, block_config=(3, 2), num_init_features=8, num_classes=5)
    assert compacted(model, torch.randn(2, 3, 32, 32)) < 0.5
