"""sl.optim.AdamW: torch's AdamW on the surviving weights, exact zeros elsewhere."""

import copy

import pytest
import torch
from support.small_training import net, train

import sparselth as sl


def sparse_net(sparsity=0.8):
    model = net()
    masks = sl.find_masks(model, sparsity=sparsity)
    return sl.sparsify(model, masks), masks


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("foreach", [None, False, True])
def test_equals_torch_adamw_with_the_mask_applied_after_each_step(betas, weight_decay, foreach):
    options = {"lr": 0.01, "betas": betas, "weight_decay": weight_decay, "foreach": foreach}
    model, masks = sparse_net()
    model = model.double()  # Adam divides by small numbers: in float32 roundings would show
    dense = sl.densify(copy.deepcopy(model))
    theirs = torch.optim.AdamW(dense.parameters(), **options)

    def cut():
        with torch.no_grad():
            for name, mask in masks.items():
                parameter = dense.get_parameter(name)
                for tensor in (parameter, theirs.state[parameter]["exp_avg"]):
                    tensor.mul_(mask)

    ours = sl.optim.AdamW(model.parameters(), **options)
    train_double(model, ours, 6)
    train_double(dense, theirs, 6, cut)
    for (name, a), b in zip(model.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def train_double(model, optimizer, steps, after=None):
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(5, 2, 7, 7, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        if after:
            after()


@pytest.mark.parametrize("masked", [False, True])
def test_equals_dense_torch_adamw_where_nothing_is_pruned(masked):
    model = net().double()
    twin = copy.deepcopy(model)
    if masked:
        weights = {name: model.get_parameter(name) for name in ("0.weight", "2.weight", "4.weight")}
        sl.sparsify(model, {name: torch.ones_like(p).bool() for name, p in weights.items()})
    train_double(model, sl.optim.AdamW(model.parameters(), lr=0.01), 4)
    train_double(twin, torch.optim.AdamW(twin.parameters(), lr=0.01), 4)
    tolerance = 1e-8 if masked else 0
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_pruned_weights_gradients_and_moments_stay_exactly_zero():
    model = net()
    optimizer = sl.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer)  # moments everywhere before pruning
    masks = sl.find_masks(model, sparsity=0.9)
    sl.sparsify(model, masks)
    train(model, optimizer)
    for name, mask in masks.items():
        parameter = model.get_parameter(name)
        state = optimizer.state[parameter]
        assert state["step"] == 8
        for what in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]):
            assert not what[~mask].any()
        assert state["exp_avg_sq"][mask].all()


def test_state_dict_goes_to_torchs_adamw_and_comes_back():
    model, _ = sparse_net()
    optimizer = sl.optim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer)
    theirs_model = sl.densify(copy.deepcopy(model))
    theirs = torch.optim.AdamW(theirs_model.parameters(), lr=0.5)
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for ours, other in zip(optimizer.state.values(), theirs.state.values(), strict=True):
        assert list(ours) == list(other) == ["step", "exp_avg", "exp_avg_sq"]
        for name, value in ours.items():
            assert torch.equal(value, other[name])
            assert value.dtype == other[name].dtype
            assert value.device == other[name].device
    twin = copy.deepcopy(model)
    resumed = sl.optim.AdamW(twin.parameters(), lr=0.5)
    resumed.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(model, optimizer)
    train(twin, resumed)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    train(theirs_model, theirs, steps=1)
    assert all(state["step"] == 5 for state in theirs.state.values())


def test_parameters_that_join_later_count_their_own_steps():
    model, _ = sparse_net()
    optimizer = sl.optim.AdamW(model.parameters(), lr=0.01)
    model[2].weight.requires_grad_(False)
    before = model[2].weight.clone()
    train(model, optimizer, steps=2)
    assert torch.equal(model[2].weight, before)
    model[2].weight.requires_grad_(True)
    train(model, optimizer, steps=1)
    assert optimizer.state[model[2].weight]["step"] == 1
    assert optimizer.state[model[0].weight]["step"] == 3
    moved = (model[2].weight - (1 - 0.01 * 0.01) * before).abs()
    moved = moved[model[2].weight != 0]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-2, atol=0)


def test_schedulers_closures_and_gradients():
    model, _ = sparse_net()
    optimizer = sl.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.1)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 2, 7, 7)).square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert all(p.grad is not None for p in model.parameters())
    scheduler.step()
    weight, state = model[2].weight, optimizer.state[model[2].weight]
    before = weight.detach().clone()
    optimizer.step(closure)
    mean, square = state["exp_avg"] / (1 - 0.9**2), state["exp_avg_sq"] / (1 - 0.999**2)
    torch.testing.assert_close(weight, before - 0.01 * mean / (square.sqrt() + 1e-8))


@pytest.mark.parametrize("masked", [False, True])
def test_with_admm_the_pull_goes_through_the_moments(masked):
    model = net().double()
    if masked:
        sl.sparsify(model, sl.find_masks(model, sparsity=0.5))
    twin = copy.deepcopy(model)
    for network, inside in ((model, True), (twin, False)):
        admm = sl.ADMM(network, sparsity=0.8, rho=0.3)
        optimizer = sl.optim.AdamW(network.parameters(), lr=0.01)
        if inside:
            sl.training.ADMMSchedule(admm).attach(optimizer)
        generator = torch.Generator().manual_seed(3)
        for step in range(6):
            x = torch.randn(5, 2, 7, 7, generator=generator, dtype=torch.float64)
            optimizer.zero_grad()
            loss = network(x).square().mean()
            (loss if inside else loss + admm.penalty()).backward()
            optimizer.step()
            if step % 2:
                admm.update()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("pulled", [False, True])
def test_a_copy_of_model_and_optimizer_steps_alike(pulled):
    model, _ = sparse_net()
    admm = sl.ADMM(model, sparsity=0.9, rho=0.3) if pulled else None
    optimizer = sl.optim.AdamW(model.parameters(), lr=0.01, admm=admm)
    train(model, optimizer, steps=2)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    for network, steps in ((model, optimizer), (twin, twin_optimizer)):
        torch.manual_seed(1)
        train(network, steps)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("option", ["amsgrad", "maximize"])
def test_what_the_op_does_not_know_is_stepped_by_torch_on_the_masks(option):
    model = net()
    optimizer = sl.optim.AdamW(model.parameters(), lr=0.01, **{option: True})
    train(model, optimizer)  # moments everywhere before pruning
    masks = sl.find_masks(model, sparsity=0.9)
    sl.sparsify(model, masks)
    train(model, optimizer, steps=1)
    for name in masks:
        weight = model.get_parameter(name)
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        state = [value for value in optimizer.state[weight].values() if value.dim()]
        assert len(state) == (3 if option == "amsgrad" else 2)
        for what in (weight, weight.grad, *state):
            assert not what[~mask].any()
            assert what[mask].all()


@pytest.mark.parametrize("optimizer", [sl.optim.SGD, sl.optim.AdamW])
def test_half_precision_layers_beside_others(optimizer):
    model = torch.nn.Sequential(*(torch.nn.Linear(40, 30) for _ in range(3)))
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5))
    model[1].half()
    before = [layer.weight.detach().clone() for layer in model]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer(model.parameters(), lr=0.125, weight_decay=0.0).step()
    for layer, old in zip(model, before, strict=True):
        assert layer.weight.dtype == old.dtype
        kept = old != 0
        torch.testing.assert_close(layer.weight[kept], old[kept] - 0.125, rtol=2e-3, atol=2e-3)


def test_fused_counts_steps_where_torch_does_and_leaves_scaling_to_the_scaler():
    model, _ = sparse_net()
    optimizer = sl.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    twin = copy.deepcopy(model)
    plain = sl.optim.AdamW(twin.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for network, steps in ((model, optimizer), (twin, plain)):
        x = torch.ones(2, 2, 7, 7)
        loss = network(x).square().mean()
        if steps is optimizer:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
        else:
            loss.backward()
            plain.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class DeviceCounted(sl.optim.AdamW):
    """Takes the CPU for a GPU, whose step counts are not read on the host."""

    def _age(self, group, parameter):
        super()._age(group, parameter)


def test_steps_that_the_kernel_reads_are_those_the_host_counts():
    model, _ = sparse_net()
    twin = copy.deepcopy(model)
    train(model, DeviceCounted(model.parameters(), lr=0.01))
    train(twin, sl.optim.AdamW(twin.parameters(), lr=0.01))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_lr_on_a_device_is_refused():
    with pytest.raises(ValueError, match="lr lies on meta, and reading it would wait"):
        sl.optim.base.number("lr", torch.tensor(0.1, device="meta"))
    assert sl.optim.base.number("lr", torch.tensor(0.5)) == 0.5


def test_masked_refuses_it():
    model, _ = sparse_net()
    with pytest.raises(ValueError, match="AdamW keeps to the masks by itself"):
        sl.optim.keep_on_mask(sl.optim.AdamW(model.parameters(), lr=0.1))
