"""Convolution, norm, shortcut and ReLU at once: what the modules compute one by one."""

import pytest
import torch
from support.contained_nets import counts, known, nodes, resnet, sparse, vgg, watched
from support.traveling_nets import assert_same_step, conv, head, images
from torch import nn

from sparselth.nn import containers

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


def step(model, x):
    x = x.clone().requires_grad_()
    out = model(x)
    out.square().sum().backward()
    return [out, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("net", [vgg, resnet])
@pytest.mark.parametrize(
    ("batch", "dtype"), [(1, torch.float64), (3, torch.float64), (11, torch.float64), (19, None)]
)
def test_a_step_is_bit_for_bit_that_of_the_modules(net, batch, dtype):
    x = images(batch).to(dtype or torch.float32)
    model = known(sparse(net()).to(x.dtype), x)
    twin = known(watched(model), x)
    twin.load_state_dict(model.state_dict())
    out = model(x)
    # All of a `Sequential`, and one of each unit, which a shortcut of its own divides.
    assert nodes(out).count("ConvNormsBackward") == (1 if net is vgg else 4)
    assert not any("ConvNorm" in name for name in nodes(twin(x)))
    for got, want in zip(step(model, x), step(twin, x), strict=True):
        assert torch.equal(got, want)


def test_modules_in_modes_of_their_own_are_the_same_bits():
    """Statistics are summed as results are stored in both ways, or in neither."""
    x = images(19).float()
    model = sparse(vgg()).float()
    model[3].eval()
    model[7].track_running_stats = False
    model[7].running_mean = model[7].running_var = None
    model = known(model, x)
    twin = known(watched(model), x)
    twin.load_state_dict(model.state_dict())
    for got, want in zip(step(model, x), step(twin, x), strict=True):
        assert torch.equal(got, want)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(model.eval()(x), twin.eval()(x))


@pytest.mark.parametrize("net", [vgg, resnet])
def test_evaluation_is_that_of_the_modules(net):
    x = images(5)
    model = known(sparse(net()), x).eval()
    twin = watched(model)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(model(x), twin(x))
    # With gradients it is the modules themselves.
    assert not any("ConvNorm" in name for name in nodes(model(x.requires_grad_())))


CHANGES = {
    "cumulative average": lambda norm: setattr(norm, "momentum", None),
    "evaluated alone": lambda norm: norm.eval(),
}


@pytest.mark.parametrize("change", [*CHANGES, None])
def test_norms_of_every_kind(change, monkeypatch):
    x = images(4)
    model = sparse(vgg())
    if change is not None:
        CHANGES[change](model[4])
    model = known(model, x)
    calls = counts(monkeypatch)
    assert_same_step(model, x)
    assert len(calls) == (3 if change is None else 2)


def test_a_norm_of_its_own_kind_stays_what_it_is():
    model = sparse(
        nn.Sequential(
            *(conv(3, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU()),
            *(conv(8, 8), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), conv(8, 8)),
            *(nn.BatchNorm2d(8), nn.LeakyReLU(), *head(8)),
        )
    )
    for _ in range(3):
        assert_same_step(model, images(3))
    model.eval()
    for _ in range(2):
        assert_same_step(model, images(3))


def test_frozen_parameters_get_no_gradient():
    x = images(3)
    model = sparse(resnet())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("bn1" not in name and "conv2" not in name)
    for _ in range(2):
        model.zero_grad()
        model(x).sum().backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad


def test_a_mask_or_weight_changed_between_steps_counts():
    x = images(3)
    model = known(sparse(vgg()), x)
    model[3].set_mask(torch.rand_like(model[3].weight) < 0.5)
    for _ in range(2):
        assert_same_step(model, x)
    with torch.no_grad():
        model[3].weight.mul_(2)
        model[6].weight_mask[0] = False
    for _ in range(2):
        assert_same_step(model, x)
    model.append(nn.Flatten())
    model[3] = conv(8, 8).double()  # replaced by a plain one
    assert_same_step(model, x)


def test_autocast_runs_them_in_bfloat16(monkeypatch):
    x = images(5).float()
    model = sparse(resnet()).float()
    twin = watched(model)
    results = []
    for each in (model, twin):
        for _ in range(2):
            each.zero_grad()
            calls = counts(monkeypatch)
            with torch.autocast("cpu", torch.bfloat16):
                out = each(x)
            out.float().square().sum().backward()
            monkeypatch.undo()
        results.append([out, *(p.grad for p in each.parameters()), *each.buffers()])
        assert len(calls) == (5 if each is model else 0)
    for got, want in zip(*results, strict=True):
        assert torch.equal(got, want)


def test_gradients_of_gradients():
    """Of a penalty on gradients, against the dense reference."""
    model = known(sparse(resnet()), images(3)).train()

    def penalized(model, x):
        out = model(x)
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return grad.square().sum(1, keepdim=True) + out.sum()

    assert_same_step(model, images(3), penalized)


def test_a_block_that_is_a_convolution_beside_itself():
    """One tensor as input and shortcut: each has its own gradient."""

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.relu = conv(8, 8), nn.BatchNorm2d(8), nn.ReLU()

        def forward(self, x):
            trio = containers.Trio(self.conv, self.norm, self.relu)
            return containers.conv_norms([trio], x, x)

    model = sparse(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), Beside(), *head(8)))
    for _ in range(2):
        assert_same_step(model, images(3))

    def penalized(model, x):
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return grad

    assert_same_step(model, images(3), penalized)


def test_rows_in_rows_are_one_row(monkeypatch):
    """As MobileNetV2 nests them; a hook on an inner one keeps it whole."""
    x = images(3)
    inner = nn.Sequential(conv(8, 8), nn.BatchNorm2d(8), nn.ReLU6())
    row = nn.Sequential(inner, conv(8, 8), nn.BatchNorm2d(8))
    model = known(sparse(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), row, *head(8))), x)
    assert nodes(model(x)).count("ConvNormsBackward") == 1
    seen = []
    handle = model[2][0].register_forward_hook(lambda module, given, out: seen.append(out.shape))
    for _ in range(2):
        assert_same_step(model, x)
    assert len(seen) >= 2
    handle.remove()
    calls = counts(monkeypatch)
    model(x)
    assert len(calls) == 3


def test_a_chain_goes_on_after_what_breaks_it(monkeypatch):
    x = images(3)
    layers = [m for _ in range(4) for m in (conv(8, 8), nn.BatchNorm2d(8), nn.ReLU())]
    model = sparse(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), *layers, *head(8)))
    model = known(model, x)
    model[5].register_forward_hook(lambda module, given, out: None)
    calls = counts(monkeypatch)
    out = model(x)
    assert len(calls) == 4
    assert nodes(out).count("ConvNormsBackward") == 2
    assert_same_step(model, x)


def test_an_input_that_turns_plain_before_the_backward():
    x = images(3)
    model = known(sparse(resnet()), x)
    want = step(model, x)
    model.zero_grad()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
    given = x.clone().requires_grad_()
    hidden = model[:3](given)
    out = model[3:](hidden)
    hidden.detach().numpy()  # for good: a view of the plain values
    out.square().sum().backward()
    got = [out, given.grad, *(p.grad for p in model.parameters())]
    for a, b in zip(got, want, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_inference_mode_is_evaluation():
    x = images(3)
    model = sparse(resnet()).eval()
    with torch.no_grad():
        want = model(x)
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(model(x), want, rtol=1e-9, atol=1e-9)
