"""Models without values, on the meta device or fake, and models beside another default device."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import sparselth as sl

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), (3, 8)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 6, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), (2, 2, 4, 4, 4)),
}


def sparse(layer):
    torch.manual_seed(0)
    make, shape = LAYERS[layer]
    model = nn.Sequential(make())
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    return model, torch.randn(shape)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_model_on_the_meta_device_computes_shapes(layer):
    model, x = sparse(layer)
    want, state = model(x), copy.deepcopy(model.state_dict())
    model.to("meta")
    y = model(x.to("meta"))
    assert (y.shape, y.device.type) == (want.shape, "meta")
    y.sum().backward()
    assert model[0].weight.grad.shape == model[0].weight.shape
    assert "without values" in repr(model)
    model.to_empty(device="cpu").load_state_dict(state)
    torch.testing.assert_close(model(x), want)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.filterwarnings("error:Accessing the data pointer")
def test_a_fake_model_computes_shapes(layer):
    real, x = sparse(layer)
    shape, mask = real(x).shape, sl.masks_of(real)["0.weight"]
    twin = copy.deepcopy(real)
    values = twin.state_dict()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        made = nn.Sequential(LAYERS[layer][0]())
        sl.sparsify(made, {"0.weight": mode.from_tensor(mask)})
        state = {name: mode.from_tensor(value) for name, value in values.items()}
        twin.load_state_dict(state, assign=True)
        for model in (made, twin):
            y = model(mode.from_tensor(x))
            assert y.shape == shape
            y.sum().backward()
            assert model[0].weight.shape == model[0].weight_mask.shape == mask.shape
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.state_dict()
            repr(model)
            with pytest.raises(sl.SparselthError, match="without values"):
                sl.sparsity(model)
        assert type(sl.densify(made)[0]) is type(LAYERS[layer][0]())
    assert real(x).shape == shape


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4),
    )  # fmt: skip


def trained(backend):
    """Go through what makes tensors: searches, choices, lanes, steps, copies, comparisons."""
    model = network()
    admm = sl.ADMM(model, projection=sl.pruning.Levels(bits=2))
    admm.update()
    masks = sl.find_masks(model, sparsity=0.9)
    masks = sl.pruning.shuffled_masks(masks, seed=0)
    sl.sparsify(model, masks)
    x = torch.randn(16, 2, 14, 14, device="cpu")
    optimizers = [
        sl.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        sl.optim.AdamW(model.parameters(), lr=0.01),
    ]
    with backend():
        for optimizer in optimizers:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        twin = copy.deepcopy(model)
        sl.weight_overlap(dict(model.named_parameters()), dict(twin.named_parameters()), 0.2)
        sl.pruning.inverted_masks(masks, dict(model.named_parameters()))
        sl.pruning.shuffled_weights(dict(model.named_parameters()), masks, seed=0)
        result = model(x).detach()
    return result, sl.densify(twin)


@pytest.mark.parametrize(
    "backend",
    [
        lambda: sl.use_choice("measured"),
        lambda: sl.use_choice("fixed"),
        lambda: sl.use_backend("reference"),
    ],
    ids=["measured", "fixed", "reference"],
)
def test_the_default_device_is_nobodys_business(backend):
    want, _ = trained(backend)
    before = torch.get_default_device()
    with torch.device("cpu"):
        model = network()
    try:
        torch.set_default_device("meta")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "network", lambda: copy.deepcopy(model))
            got, _ = trained(backend)
    finally:
        torch.set_default_device(None if before.type == "cpu" else before)
    # Where choices are measured, they may differ and round differently.
    torch.testing.assert_close(got, want, atol=1e-2, rtol=1e-2)


def test_training_and_its_data_follow_no_default_device():
    data = (torch.randn(64, 8), torch.randint(0, 4, (64,)))
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    try:
        torch.set_default_device("meta")
        sl.train(model, data, sl.Recipe(epochs=1, batch_size=16, learning_rate=0.01), device="cpu")
    finally:
        torch.set_default_device(None)
    assert model[0].weight.device.type == "cpu"
    assert bool(model[0].weight.isfinite().all())
