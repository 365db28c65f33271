"""Convolution, norm, shortcut and ReLU at once: what the modules compute one by one."""

import copy
import io

import pytest
import torch
from support.traveling_nets import assert_same_step, conv, head, images, masks_for
from torch import nn
from torch.autograd.graph import Node
from torch.utils.checkpoint import checkpoint

import sparselth as sl
from sparselth.models.resnet import BasicBlock
from sparselth.nn import containers
from sparselth.nn.containers import LaneContainer

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


def sparse(model):
    """Return a model so sparse that every masked layer is served by sparse kernels."""
    model = model.double()
    masks = {name: torch.rand(mask.shape) < 0.1 for name, mask in masks_for(model).items()}
    return sl.sparsify(model, masks)


def vgg():
    return nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(True), conv(8, 8, bias=True), nn.BatchNorm2d(8)),
        *(nn.ReLU6(), conv(8, 6, stride=2), nn.BatchNorm2d(6), *head(6)),
    )


def resnet():
    return nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), BasicBlock(8, 8, 1), BasicBlock(8, 12, 2)),
        *head(12),
    )


def nodes(out):
    """Return the names of the nodes that lead to a result."""
    found, left = set(), [out.grad_fn]
    while left:
        node: Node | None = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [following for following, _ in node.next_functions]
    return [node.name() for node in found]


def known(model, x):
    """Return a model whose layers have seen such an input: they look their way up from then on."""
    for inputs in (x, x.clone().requires_grad_()):
        model(inputs).sum().backward()
    model.zero_grad()
    return model


def watched(model):
    """Return a copy whose modules are called one by one."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: None)
    return twin


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
    assert nodes(out).count("ConvNormBackward") >= 3
    assert not any("ConvNorm" in name for name in nodes(twin(x)))
    for got, want in zip(step(model, x), step(twin, x), strict=True):
        assert torch.equal(got, want)


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


def counts(model, monkeypatch):
    """Return a list that grows with each convolution that is run with its norm."""
    calls = []
    apply = containers.ConvNorm.apply
    monkeypatch.setattr(
        containers.ConvNorm, "apply", lambda *args: calls.append(1) or apply(*args), raising=False
    )
    return calls


WATCHES = {
    "forward hook": lambda m: m.register_forward_hook(lambda *_: None),
    "pre hook": lambda m: m.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda m: m.register_full_backward_hook(lambda *_: None),
    "replaced forward": lambda m: setattr(m, "forward", m.forward),
}


@pytest.mark.parametrize("place", [0, 1, 2], ids=["conv", "norm", "relu"])
@pytest.mark.parametrize("watch", WATCHES)
def test_whoever_watches_a_module_sees_it_called(watch, place, monkeypatch):
    x = images(3)
    model = known(sparse(vgg()), x)
    calls = counts(model, monkeypatch)
    model(x)
    before = len(calls)
    WATCHES[watch](model[3 + place])
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # full backward hooks return views
    calls.clear()
    model(x)
    # What a full backward hook returns is plain, and meets the next layer for the first time.
    assert len(calls) == before - 1 or (watch == "backward hook" and len(calls) < before)


def test_a_hook_on_every_module_sees_them_called(monkeypatch):
    x = images(3)
    model = known(sparse(vgg()), x)
    calls = counts(model, monkeypatch)
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        model(x)
    finally:
        handle.remove()
    assert not calls
    model(x)
    assert calls


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
    calls = counts(model, monkeypatch)
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


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_from_the_first_step_on(use_reentrant):
    model = sparse(resnet())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the recomputation updates the statistics again
    for _ in range(2):
        assert_same_step(
            model, images(3), lambda model, x: checkpoint(model, x, use_reentrant=use_reentrant)
        )


def test_autocast_runs_them_in_bfloat16(monkeypatch):
    x = images(5).float()
    model = sparse(resnet()).float()
    twin = watched(model)
    results = []
    for each in (model, twin):
        for _ in range(2):
            each.zero_grad()
            calls = counts(each, monkeypatch)
            with torch.autocast("cpu", torch.bfloat16):
                out = each(x)
            out.float().square().sum().backward()
            monkeypatch.undo()
        results.append([out, *(p.grad for p in each.parameters()), *each.buffers()])
        assert len(calls) == (5 if each is model else 0)
    for got, want in zip(*results, strict=True):
        assert torch.equal(got, want)


def test_an_activation_in_between_has_its_gradient():
    """What a user holds of a block's input and result are tensors like any other."""
    x = images(3)
    model = known(sparse(resnet()), x)
    twin = watched(model)
    results = []
    for each in (model, twin):
        held = []
        for module in each[3:5]:
            module.register_forward_hook(
                lambda module, inputs, output, held=held: held.append(output)
            )
        out = each(x)
        for t in held:
            t.retain_grad()
        (out.sum() + held[0].square().sum()).backward()
        results.append([t.grad + 0 for t in held])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


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
            return containers.conv_norm(self.conv, self.norm, self.relu, x, x)

    model = sparse(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), Beside(), *head(8)))
    for _ in range(2):
        assert_same_step(model, images(3))

    def penalized(model, x):
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return grad

    assert_same_step(model, images(3), penalized)


def test_copies_files_and_plain_models():
    x = images(3)
    before = resnet()
    keys = list(before.state_dict())
    model = known(sparse(before), x)
    assert isinstance(model, LaneContainer)
    assert isinstance(model[3], BasicBlock)
    want = model.eval()(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert type(twin[3]) is type(model[3])
        assert torch.equal(twin(x), want)
    sl.densify(model)
    assert type(model) is nn.Sequential
    assert type(model[3]) is BasicBlock
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(x), want)


def test_containers_without_masked_convolutions_stay_what_they_are():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(conv(3, 8)))
    sl.sparsify(model, masks_for(model))
    assert [isinstance(m, LaneContainer) for m in model] == [False, True]
    assert type(model) is nn.Sequential


def test_names_of_no_container_are_not_there():
    with pytest.raises(AttributeError):
        containers.Lane_torch_nn_Linear  # noqa: B018


def small_vgg(models):
    model = models.vgg11_bn()
    model.classifier = nn.Linear(512 * 7 * 7, 5)
    return model


TORCHVISION = {  # and the masked convolutions that a norm follows: all but the dense first one
    "resnet18": (lambda models: models.resnet18(num_classes=5), 19),
    "bottlenecks": (
        lambda models: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5),
        16,
    ),
    "vgg11_bn": (small_vgg, 7),
    "mobilenet_v2": (lambda models: models.mobilenet_v2(num_classes=5, width_mult=0.25), 51),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_models(name, monkeypatch):
    build, convolutions = TORCHVISION[name]
    model = build(pytest.importorskip("torchvision.models")).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9))
    x = images(4, 64)  # the last norms have some values to take statistics of
    known(model, x)
    calls = counts(model, monkeypatch)
    assert_same_step(model, x)
    assert len(calls) == convolutions
