"""A dense-served layer on a GPU computes with its weight as it is; the CPU stands in for one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import profile

import sparselth as sl
from sparselth.nn import state

# What launches nothing.
NO_KERNEL = {
    *("view", "as_strided", "expand", "unsqueeze", "squeeze", "transpose", "t", "slice", "select"),
    *("empty", "empty_strided", "empty_like", "resize_", "set_", "result_type", "detach"),
}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Let what holds on a GPU hold here: a version counter that stands says that all is clean."""
    monkeypatch.setattr(state, "_CLEAN_BY_VERSION", ("cpu",))


def net(layout=torch.contiguous_format):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    return model.to(memory_format=layout)


def sparse_net(sparsity=0.5, **options):
    model = net(**options)
    return sl.sparsify(model, sl.find_masks(model, sparsity=sparsity, exclude=()))


def kernels_of(model, x, dtype=None):
    """Count by name the operations of a forward and backward that launch a kernel on a GPU."""

    def run():
        model.zero_grad()
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model(x).square().sum()
        loss.backward()

    with sl.use_choice("fixed"):
        for _ in range(2):
            run()
        with profile() as found:
            run()
    counts = {}
    for event in found.events():
        name = event.name.removeprefix("aten::")
        inner = {c.name.removeprefix("aten::") for c in event.cpu_children if "aten::" in c.name}
        if name != event.name and name not in NO_KERNEL and inner <= NO_KERNEL:
            counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_dense_served_layer_launches_one_kernel_more_than_a_plain_one(layout, dtype):
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=layout)
    plain, masked = net(layout), sparse_net(0.1, layout=layout)
    theirs, ours = kernels_of(plain, x, dtype), kernels_of(masked, x, dtype)
    assert ours.pop("bitwise_and") == 2  # the gradients of two layers are cut
    assert ours == theirs


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("optimizer", [sl.optim.SGD, torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training_is_that_of_the_masked_weight(optimizer, layout, monkeypatch):
    ours = sparse_net(layout=layout)
    theirs = copy.deepcopy(ours)
    x = torch.randn(4, 4, 6, 6)

    def train(model):
        steps = optimizer(model.parameters(), lr=0.05)
        for _ in range(4):
            steps.zero_grad()
            F.cross_entropy(model(x), torch.arange(4)).backward()
            for module in (model[0], model[3]):
                assert not module.weight.grad[~module.weight_mask].any()
            steps.step()

    with sl.use_choice("fixed"):
        train(ours)
        monkeypatch.setattr(state, "_CLEAN_BY_VERSION", ())
        train(theirs)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not ours[0].weight[~ours[0].weight_mask].any()


@pytest.mark.usefixtures("as_on_a_gpu")
def test_what_a_counter_sees_is_cleaned_before_the_next_forward():
    model, x = sparse_net(), torch.randn(2, 4, 6, 6)
    with sl.use_choice("fixed"):
        model(x)
        for write in (
            lambda w: w.normal_(),
            lambda w: setattr(w, "data", torch.randn_like(w)),
            lambda w: w.add_(1),
        ):
            with torch.no_grad():
                write(model[0]._parameters["weight"])
            got = model(x)
            mask = model[0]._buffers["weight_mask"]
            weight = model[0]._parameters["weight"] * mask
            want = F.conv2d(x, weight, model[0].bias, padding=1)
            torch.testing.assert_close(got, model[3](want.tanh().flatten(1)))
        model[0].weight_mask[:4] = False
        want = F.conv2d(x, model[0].weight * model[0].weight_mask, model[0].bias, padding=1)
        torch.testing.assert_close(model(x), model[3](want.tanh().flatten(1)))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_mask_written_to_before_the_backward_cuts_its_gradient():
    model, x = sparse_net(), torch.randn(2, 4, 6, 6)
    with sl.use_choice("fixed"):
        model(x)
        loss = model(x).square().sum()
        model[0]._buffers["weight_mask"][0] = False
        loss.backward()
    mask = model[0]._buffers["weight_mask"]
    assert not model[0]._parameters["weight"].grad[~mask].any()


@pytest.mark.usefixtures("as_on_a_gpu")
def test_gradients_by_pruned_weights_are_collected_once():
    model, x = sparse_net(), torch.randn(2, 4, 6, 6)
    dense = sl.densify(copy.deepcopy(model))
    with sl.use_choice("fixed"):
        collected = sl.nn.DenseGradients(model)
        collected.start()
        model(x).square().sum().backward()
        found = collected.stop()
    dense(x).square().sum().backward()
    for name, grad in found.items():
        torch.testing.assert_close(grad, dense.get_parameter(name).grad)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_second_derivatives_go_through_the_cut():
    model, x = sparse_net(), torch.randn(2, 4, 6, 6)
    twin = copy.deepcopy(model)

    def penalty(module):
        weight = module[0]._parameters["weight"]
        (grad,) = torch.autograd.grad(module(x).pow(3).sum(), weight, create_graph=True)
        grad.square().sum().backward()
        return weight.grad

    with sl.use_choice("fixed"):
        got = penalty(model)
        with sl.use_backend("reference"):
            want = penalty(twin)
    torch.testing.assert_close(got, want)
