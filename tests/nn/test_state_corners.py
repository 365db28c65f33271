"""Corners of the invariant in which more than one thing happens at once."""

import copy
import sys
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from support.mask_writers import Case
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import sparselth as sl
from sparselth.ops import plan


class Tied(nn.Module):
    """Reads its weight by itself and by the layer's forward, in either order."""

    def __init__(self, read_first):
        super().__init__()
        self.layer, self.read_first = nn.Linear(16, 16, bias=False), read_first

    def forward(self, x):
        if self.read_first:
            return self.layer(F.linear(x, self.layer.weight.t()))
        return F.linear(self.layer(x), self.layer.weight.t())


@pytest.mark.parametrize("choice", sl.ops.kernel_choice.decide.MODES)
@pytest.mark.parametrize("read_first", [True, False])
def test_gradients_of_two_uses_are_zero_off_the_mask(read_first, choice):
    torch.manual_seed(0)
    model, mask, x = Tied(read_first), torch.rand(16, 16) < 0.2, torch.randn(4, 16)
    dense = copy.deepcopy(model)
    sl.sparsify(model, {"layer.weight": mask})
    with torch.no_grad():
        dense.layer.weight.mul_(mask)
    with sl.use_choice(choice):
        model(x).square().sum().backward()
    dense(x).square().sum().backward()
    torch.testing.assert_close(model.layer.weight.grad, dense.layer.weight.grad * mask)


def test_a_users_hook_that_edits_in_place_is_followed():
    layer = nn.Linear(8, 8)
    layer.weight.register_hook(lambda grad: grad.add_(1.0))
    mask = torch.rand(8, 8) < 0.3
    sl.sparsify(layer, {"weight": mask})
    layer(torch.randn(2, 8)).sum().backward()
    assert not layer.weight.grad[~mask].any()


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_held_after_a_swap_beside_a_users_hook(frozen):
    case, seen = Case("linear"), []
    case.weight.register_hook(lambda grad: seen.append(grad.clone()))
    torch.utils.swap_tensors(
        case.weight, nn.Parameter(torch.ones_like(case.weight), requires_grad=not frozen)
    )
    case.model(case.x)
    case.weight.requires_grad_(True)
    case.owner.weight.sum().backward()
    assert torch.equal(case.weight.grad, case.mask.float())
    assert len(seen) == 1


def test_a_plan_goes_with_its_mask_and_a_swapped_mask_gets_its_own():
    first, second = torch.eye(8).bool(), torch.ones(8, 8).bool()
    want = [plan.conv_plan(mask) for mask in (first, second)]
    if want[0] is None:
        pytest.skip("_host is not there, and builds plans")
    assert torch.equal(plan.plan_of(first), want[0])
    kept = weakref.ref(plan.plan_of(first))
    assert plan.plan_of(first) is kept()
    torch.utils.swap_tensors(first, second)
    assert torch.equal(plan.plan_of(first), want[1])
    assert torch.equal(plan.plan_of(second), want[0])
    second.data.fill_(True)
    plan.forget_plan(second)
    assert torch.equal(plan.plan_of(second), want[1])
    del second
    assert kept() is None


@pytest.mark.parametrize("layer", ["linear", "conv3d"])
def test_a_mask_edited_between_forward_and_backward(layer):
    case = Case(layer)
    y = case.model(case.x).square().sum()
    case.mask.copy_(~case.mask)
    y.backward()
    assert not case.weight.grad[~case.mask].any()


@pytest.mark.parametrize("layer", ["conv2d", "linear", "conv3d"])
def test_a_step_cleans_by_the_mask_as_it_is(layer):
    case = Case(layer)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    case.model(case.x).square().sum().backward()
    with torch.no_grad():
        case.weight.fill_(1.0)
    case.mask.copy_(case.other)
    optimizer.step()
    assert not case.weight[~case.other].any()


def test_threads_in_one_module_do_not_see_each_others_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(2, 4, 2))
    sl.sparsify(model, sl.find_masks(model, sparsity=0.7, exclude=()))
    x = torch.randn(1, 2, 3, 3, 3)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def infer():
        with torch.no_grad():
            for _ in range(300):
                model(x)

    threads = [threading.Thread(target=infer) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(300):
            model.zero_grad()
            model(x).sum().backward()
            assert model[0]._parameters["weight"].grad is not None
    finally:
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert model[0].weight is model[0]._parameters["weight"]


@pytest.mark.parametrize("pack", [lambda t: t.detach().clone().numpy(), lambda t: t.tolist()])
def test_saved_tensors_may_be_packed_as_anything(pack):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9, exclude=()))
    nn.init.constant_(model[1].bias, 0.5)  # a filter without weights is not at the ReLU's edge
    x = torch.randn(4, 4, 9, 9)

    def unpack(packed):
        if isinstance(packed, list):
            return torch.tensor(packed)
        return torch.from_numpy(packed)

    grads = []
    for hooked in (False, True):
        model.zero_grad()
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: pack(t) if t.dtype == torch.float32 else t,
            lambda p: p if isinstance(p, torch.Tensor) else unpack(p),
        )
        if hooked:
            with hooks:
                y = model(x).square().sum()
        else:
            y = model(x).square().sum()
        y.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*grads, atol=1e-3, rtol=1e-4)


def test_shared_memory_holds_the_masks_too():
    model = nn.Sequential(nn.Linear(4, 4))
    sl.sparsify(model, {"0.weight": torch.eye(4).bool()})
    model.share_memory()
    assert all(tensor.is_shared() for tensor in model.state_dict().values())


def test_a_mask_in_a_sparse_layout_leaves_the_model_untouched():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    masks = {"0.weight": torch.eye(4).bool(), "1.weight": torch.eye(4).bool().to_sparse()}
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=r"pass mask\.to_dense\(\)"):
            sl.sparsify(model, masks)
        assert [type(layer) for layer in model] == [nn.Linear, nn.Linear]


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 8, 3), nn.Conv1d(1, 8, 3)])
def test_inputs_that_torch_refuses_are_refused(layer):
    sl.sparsify(layer, sl.find_masks(layer, sparsity=0.5, exclude=()))
    for dims in (1, 5):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="Expected"):
                layer(torch.randn([6] * dims))


def test_nested_tensors_go_through_a_masked_linear():
    layer = nn.Linear(4, 3)
    sl.sparsify(layer, {"weight": torch.rand(3, 4) < 0.5})
    rows = [torch.randn(2, 4), torch.randn(5, 4)]
    got = layer(torch.nested.nested_tensor(rows))
    for one, row in zip(got.unbind(), rows, strict=True):
        torch.testing.assert_close(one, layer(row))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 8), lambda: nn.Conv3d(8, 8, 1)])
def test_a_parametrized_bias_outlives_the_mask(make, when):
    model = nn.Sequential(make())
    x = torch.randn([2, 8, 1, 1, 1] if model[0].weight.dim() > 2 else [2, 8])
    mask = torch.rand_like(model[0].weight) < 0.3
    steps = [
        lambda: parametrize.register_parametrization(model[0], "bias", nn.Tanh()),
        lambda: sl.sparsify(model, {"0.weight": mask}),
    ]
    for step in steps if when == "before" else reversed(steps):
        step()
    want, twin = model(x), copy.deepcopy(model)
    assert sl.sparsity(model) > 0
    sl.densify(model)
    torch.testing.assert_close(model(x), want)
    torch.testing.assert_close(twin(x), want)
    assert not sl.masks_of(model)
    assert sl.sparsity(twin) > 0, "a copy keeps its masks"
    for net in (model, twin):
        parametrize.remove_parametrizations(net[0], "bias")
        torch.testing.assert_close(net(x), want)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_first_convolution_may_be_normalized_after_sparsify(norm):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 8, 1),
    )
    sl.sparsify(model, sl.find_masks(model, sparsity=0.95)).eval()
    norm(model[0])
    x = torch.randn(4, 3, 9, 9)
    want = model(x)
    sl.densify(model)
    torch.testing.assert_close(model(x), want)
