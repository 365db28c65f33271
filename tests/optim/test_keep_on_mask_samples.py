"""torch's own samples of its optimizers, on masks: as a dense model whose masks multiply in."""

import copy
import inspect

import pytest
import torch
from support.torch_samples import optim_db
from torch import nn
from torch.func import functional_call

import sparselth as sl
from sparselth.optim.base import MaskedOptimizer

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIMIZERS = {info.name: info for info in optim_db}
OURS = {"SGD": sl.optim.SGD, "AdamW": sl.optim.AdamW}
# Its gradients are sparse tensors, which only Embedding(sparse=True) makes: `sparsify` refuses it.
SPARSE_ONLY = {name for name, info in OPTIMIZERS.items() if info.only_supports_sparse_grads}


def samples():
    """Yield names of optimizers, of ways to run them, and the options of each sample."""
    for name, info in OPTIMIZERS.items():
        if name in SPARSE_ONLY:
            continue
        ways = ["loop", *{"foreach", "fused"}.intersection(info.supported_impls)]
        for way in sorted(ways):
            for sample in info.optim_inputs_func(device="cpu"):
                options = {**sample.kwargs, **({} if way == "loop" else {way: True})}
                if way == "foreach" and isinstance(options.get("lr"), torch.Tensor):
                    continue  # torch refuses both together, unless capturable
                yield pytest.param(name, options, id=f"{name}-{way}-{sample.desc}")


def model_for(name):
    torch.manual_seed(0)
    flat = name == "Muon"  # takes matrices only
    layers = [nn.Linear(16, 8, bias=not flat), nn.Tanh(), nn.Linear(8, 3, bias=not flat)]
    if not flat:
        layers = [nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), *layers]
    model = nn.Sequential(*layers).double()
    masks = sl.find_masks(model, sparsity=0.6, exclude=[f"{len(layers) - 1}.weight"])
    return model, {**masks}


def gradients(net, optimizer, flat, step):
    """Return a closure as torch's optimizers take it."""
    x = torch.randn(
        5, *((16,) if flat else (2, 4, 4)), generator=torch.Generator().manual_seed(step)
    )
    x = x.double()

    def closure():
        optimizer.zero_grad()
        loss = net(x).square().sum()
        loss.backward()
        return loss

    return closure


class Multiplied(nn.Module):
    """A dense model whose weights are multiplied by their masks in every forward."""

    def __init__(self, model, masks):
        super().__init__()
        self.model, self.masks = model, masks

    def forward(self, x):
        own = dict(self.model.named_parameters())
        own.update({name: own[name] * mask for name, mask in self.masks.items()})
        return functional_call(self.model, own, (x,))

    def cut(self, optimizer):
        with torch.no_grad():
            for name, mask in self.masks.items():
                parameter = self.model.get_parameter(name)
                parameter.mul_(mask)
                for value in optimizer.state[parameter].values():
                    if isinstance(value, torch.Tensor) and value.shape == mask.shape:
                        value.mul_(mask)


def step(optimizer, closure, needs_closure):
    if needs_closure:
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def compared(ours, name, options, steps=4):
    """Train a sparse model by `ours`, a dense one by torch, and compare weights and state."""
    info = OPTIMIZERS[name]
    model, masks = model_for(name)
    twin = Multiplied(copy.deepcopy(model), masks)
    sl.sparsify(model, masks)
    copies = [{k: copy.deepcopy(v) for k, v in options.items()} for _ in range(2)]
    mine = ours(model.parameters(), **copies[0])
    theirs = info.optim_cls(twin.model.parameters(), **copies[1])
    twin.cut(theirs)
    for i in range(steps):
        for net, optimizer in ((model, mine), (twin, theirs)):
            closure = gradients(net, optimizer, name == "Muon", i)
            step(optimizer, closure, info.step_requires_closure)
        twin.cut(theirs)
        for path, mask in masks.items():
            weight = model.get_parameter(path)
            assert not weight[~mask].any()
            for value in mine.state[weight].values():
                if isinstance(value, torch.Tensor) and value.shape == mask.shape:
                    assert not value[~mask].any()
    pairs = zip(model.named_parameters(), twin.model.parameters(), strict=True)
    for (path, a), b in pairs:
        # float32 where torch reads an option as such: the last steps of a rounding add up.
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=lambda m, n=path: f"{n}: {m}")
        assert mine.state[a].keys() == theirs.state[b].keys()
        for key, value in mine.state[a].items():
            torch.testing.assert_close(value, theirs.state[b][key], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), samples())
def test_masked_moves_as_torch_does_with_the_masks_multiplied_in(name, options):
    cls = OPTIMIZERS[name].optim_cls
    compared(lambda p, **o: sl.optim.keep_on_mask(cls(p, **o)), name, options)


@pytest.mark.parametrize(
    ("name", "options"), [sample for sample in samples() if sample.values[0] in OURS]
)
def test_ours_move_as_torchs_do_with_the_masks_multiplied_in(name, options):
    compared(OURS[name], name, options)


@pytest.mark.parametrize("name", OURS)
def test_ours_refuse_what_torchs_do(name):
    info = OPTIMIZERS[name]
    for error in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        sample = error.optimizer_error_input
        if error.error_type is not UserWarning:
            with pytest.raises(error.error_type, match=error.error_regex):
                OURS[name](sample.params, **sample.kwargs)


@pytest.mark.parametrize("name", OURS)
def test_ours_take_what_torchs_take(name):
    theirs = inspect.signature(OPTIMIZERS[name].optim_cls.__init__).parameters
    assert issubclass(OURS[name], (MaskedOptimizer, OPTIMIZERS[name].optim_cls))
    assert set(OURS[name]([nn.Parameter(torch.ones(1))], lr=0.1).defaults) >= {
        option for option in theirs if option not in ("self", "params")
    } - {"admm"}


@pytest.mark.parametrize("name", SPARSE_ONLY)
def test_layers_whose_gradients_are_sparse_are_refused(name):
    model = nn.Sequential(nn.Embedding(6, 4, sparse=True))
    OPTIMIZERS[name].optim_cls(model.parameters())
    with pytest.raises(sl.SparselthError, match="sparse=False"):
        sl.sparsify(model, {"0.weight": torch.rand(6, 4) < 0.5})


@pytest.mark.parametrize("name", OURS)
def test_a_differentiable_step_is_torchs_on_cut_gradients(name):
    layer = nn.Linear(4, 3).double().requires_grad_(False)
    mask = torch.rand(3, 4) < 0.5
    sl.sparsify(layer, {"weight": mask})
    # What is kept, alone: of zeros the derivative of Adam's square root is not finite.
    kept = nn.Parameter(layer.weight[mask], requires_grad=False)
    results = []
    for cls, weight in ((OURS[name], layer.weight), (OPTIMIZERS[name].optim_cls, kept)):
        scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        optimizer = cls([weight], lr=0.1, differentiable=True)
        weight.grad = torch.ones_like(weight) * scale.square()
        optimizer.step()
        weight.square().sum().backward()
        results.append((weight[mask] if weight is layer.weight else weight, scale.grad))
        assert scale.grad
    assert not layer.weight[~mask].any()
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("option", ["maximize", "differentiable", "amsgrad"])
def test_admm_refuses_what_only_torchs_step_can(name, option):
    if option == "amsgrad" and name == "SGD":
        pytest.skip("SGD has no amsgrad")
    model, _ = model_for(name)
    optimizer = OURS[name](
        model.parameters(), lr=0.1, **{option: True}, admm=sl.ADMM(model, sparsity=0.5)
    )
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"{option}: not available with admm"):
        optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", OURS)
def test_hooks_of_a_step_are_called_once(name):
    parameter = nn.Parameter(torch.ones(3))
    OPTIMIZERS[name].optim_cls([parameter], lr=0.1)  # from then on torch's own step calls hooks
    optimizer = OURS[name]([parameter], lr=0.1)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    parameter.grad = torch.ones(3)
    optimizer.step()
    assert called == ["before", "after"]
