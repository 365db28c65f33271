"""timm's networks, tiny and untrained."""

import ast
import re
import warnings

import pytest
import torch
from support.dense_twin import assert_agree, twin_of

import sparselth as sl

timm = pytest.importorskip("timm", reason="timm is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {
    "efficientnet_b0": {},
    "resnetv2_50": {"layers": (1, 1, 1, 1), "channels": (16, 32, 32, 64)},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 48},
    "swin_tiny_patch4_window7_224": {
        "img_size": 56,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "embed_dim": 32,
    },
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32)},
    "mobilenetv3_small_050": {},
}

# Some of whose layers have a forward of their own; how the layers are called, and whether all do.
REFUSED = {
    "tf_efficientnet_b0": (NETWORKS["efficientnet_b0"], "Conv2dSame", False),
    "resnetv2_50": (
        {**NETWORKS["resnetv2_50"], "conv_layer": timm.layers.StdConv2d},  # as in BiT
        "StdConv2d",
        False,
    ),
    "nf_resnet26": (
        {"depths": (1, 1, 1, 1), "channels": (32, 32, 32, 32)},
        "ScaledStdConv2d",
        True,
    ),
}


def network(name, options):
    torch.manual_seed(0)
    made = timm.create_model(name, num_classes=5, pretrained=False, **options)
    size = options.get("img_size", 64)
    x = torch.randn(2, 3, size, size)
    return made.eval(), lambda net: net(x)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:masks cover")
def test_a_network_computes_what_its_masked_twin_does(name):
    model, run = network(name, NETWORKS[name])
    masks = sl.find_masks(model, sparsity=0.8)
    assert len(masks) > 7
    assert_agree(model, twin_of(model, masks), masks, run, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_layers_with_a_forward_of_their_own_are_refused_at_once(name):
    options, layer, all_of_them = REFUSED[name]
    model, run = network(name, options)
    with pytest.raises(sl.SparselthError, match=f"{layer} has a forward of its own") as refused:
        sl.find_masks(model, sparsity=0.8)
    text = str(refused.value)
    own = {
        f"{path}.weight" for path, m in model.named_modules() if type(m).__name__ == layer
    } - set(sl.pruning.first_and_last(model))
    assert own
    assert set(re.findall(r"(\S+): " + layer, text)) == own
    if all_of_them:
        assert "no other weight is left to prune" in text
        return
    exclude = ast.literal_eval(re.search(r"exclude=(\[.*\])", text)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was excluded on purpose is no gap
        masks = sl.find_masks(model, sparsity=0.8, exclude=exclude)
    assert masks
    assert not own & set(masks)
    assert_agree(model, twin_of(model, masks), masks, run, rtol=1e-3, atol=1e-5)


def test_training_keeps_the_masks():
    model, run = network("efficientnet_b0", NETWORKS["efficientnet_b0"])
    masks = sl.find_masks(model, sparsity=0.9)
    sl.sparsify(model.train(), masks)
    optimizer = sl.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        run(model).square().mean().backward()
        optimizer.step()
    average = timm.utils.ModelEmaV3(model, decay=0.5)
    average.update(model)
    for net in (model, average.module):
        for name, mask in masks.items():
            assert not net.get_parameter(name)[~mask].any()
        assert sl.sparsity(net) == sl.sparsity(masks)
