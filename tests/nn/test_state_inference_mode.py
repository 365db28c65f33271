"""What inference mode derives or changes must serve the training after it, as in dense torch."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl


def net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 24), nn.Linear(24, 10),
    )  # fmt: skip


X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def sparse(sparsity=0.9):
    torch.manual_seed(0)
    model = net()
    return sl.sparsify(model, sl.find_masks(model, sparsity=sparsity)).eval()


def edited(model):
    model[3].weight_mask[0] = True
    model[7].weight_mask = torch.rand(24, 32) < 0.2
    return model(X)


WITHIN = {
    "forward": lambda model: model(X),
    "profile": lambda model: sl.profile(model, X),
    "profile, forward only": lambda model: sl.profile(model, X, backward=False),
    "profile of what was made there": lambda model: sl.profile(model, X + 0),
    "forward and profile": lambda model: (model(X), sl.profile(model, X)),
    "load": lambda model: (model.load_state_dict(sparse(0.5).state_dict()), model(X)),
    "edit": edited,
    "sparsify": lambda model: sl.sparsify(model, sl.find_masks(model, sparsity=0.7))(X),
    "save": lambda model: model.state_dict(),
    "sparsity": lambda model: sl.sparsity(model),
    "masks": lambda model: sl.masks_of(model),
    "weight": lambda model: model[3].weight + 1,
}


@pytest.mark.parametrize("choice", sl.ops.kernel_choice.decide.MODES)
@pytest.mark.parametrize("what", WITHIN)
def test_training_goes_on_after_inference_mode(what, choice):
    with sl.use_choice(choice):
        model = sparse()
        with torch.inference_mode():
            WITHIN[what](model)
        model.train()
        optimizer = sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
        for name, mask in sl.masks_of(model).items():
            assert model.get_parameter(name).grad[mask].any()
            assert not model.get_parameter(name)[~mask].any()


def test_what_is_made_in_inference_mode_computes():
    model = sparse()
    with torch.inference_mode():
        twin = copy.deepcopy(model)
        want = model(X)
        assert torch.equal(twin(X), want)
        made = sl.sparsify(copy.deepcopy(net()), {"7.weight": torch.rand(24, 32) < 0.5}).eval()
        made(X)
        assert sl.sparsity(twin) == sl.sparsity(model)
    with torch.no_grad():
        assert torch.equal(twin(X), model(X))
        sl.densify(twin)
        torch.testing.assert_close(twin(X), want)
