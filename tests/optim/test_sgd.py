"""sl.optim.SGD: torch's SGD on the surviving weights, exact zeros elsewhere."""

import copy

import pytest
import torch
from support.small_training import net, train

import sparselth as sl


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("dampening", [0.0, 0.2])
def test_equals_torch_sgd_with_the_mask_applied_after_each_step(
    momentum, nesterov, weight_decay, dampening
):
    if nesterov and (momentum == 0 or dampening != 0):
        pytest.skip("torch refuses Nesterov without momentum or with dampening")
    options = {
        "lr": 0.1,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "dampening": dampening,
    }
    model = net()
    masks = sl.find_masks(model, sparsity=0.8)
    sl.sparsify(model, masks)
    dense = sl.densify(copy.deepcopy(model))

    def cut():
        with torch.no_grad():
            for name, mask in masks.items():
                dense.get_parameter(name).mul_(mask)

    train(model, sl.optim.SGD(model.parameters(), **options))
    train(dense, torch.optim.SGD(dense.parameters(), **options), after=cut)
    for (name, a), b in zip(model.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_pruned_weights_gradients_and_momentum_stay_exactly_zero():
    model = net()
    optimizer = sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    train(model, optimizer)  # momentum everywhere before pruning
    masks = sl.find_masks(model, sparsity=0.9)
    sl.sparsify(model, masks)
    train(model, optimizer)
    for name, mask in masks.items():
        parameter = model.get_parameter(name)
        momentum = optimizer.state[parameter]["momentum_buffer"]
        for what in (parameter, parameter.grad, momentum):
            assert not what[~mask].any()
        assert momentum[mask].all()


def test_gradients_survive_the_step():
    model = net()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5))
    train(model, sl.optim.SGD(model.parameters(), lr=0.1), steps=1)
    assert all(p.grad is not None for p in model.parameters())


def test_state_dict_is_torch_sgds_and_resumes():
    model = net()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.8))
    optimizer = sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer)
    twin = copy.deepcopy(model)
    resumed = sl.optim.SGD(twin.parameters(), lr=0.5, momentum=0.9)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer)
    train(twin, resumed)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    torch.optim.SGD(net().parameters(), lr=0.1).load_state_dict(optimizer.state_dict())


def test_schedulers_and_closures():
    model = net()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.8))
    optimizer = sl.optim.SGD(model.parameters(), lr=0.1)
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
    scheduler.step()
    before = model[2].weight.detach().clone()
    optimizer.step(closure)
    torch.testing.assert_close(model[2].weight, before - 0.01 * model[2].weight.grad)


def test_frozen_parameters_are_left_alone():
    model = net()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.8))
    model[2].weight.requires_grad_(False)
    before = model[2].weight.clone()
    train(model, sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert torch.equal(model[2].weight, before)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_with_admm_it_adds_the_penaltys_gradient(masked, momentum):
    model = net()
    if masked:  # a quantizing projection on a sparse network
        sl.sparsify(model, sl.find_masks(model, sparsity=0.5))
    twin = copy.deepcopy(model)
    runs = []
    for network in (model, twin):
        admm = sl.ADMM(network, sparsity=0.8, rho=0.3)
        optimizer = sl.optim.SGD(network.parameters(), lr=0.05, momentum=momentum)
        runs.append((network, admm, optimizer))
    runs[0][2].admm = runs[0][1]
    for number, (network, admm, optimizer) in enumerate(runs):
        generator = torch.Generator().manual_seed(3)
        for step in range(6):
            x = torch.randn(5, 2, 7, 7, generator=generator)
            optimizer.zero_grad()
            loss = network(x).square().mean()
            if number == 1:
                loss = loss + admm.penalty()
            loss.backward()
            optimizer.step()
            if step % 2:
                admm.update()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("pulled", [False, True])
def test_a_copy_of_model_and_optimizer_steps_alike(pulled):
    model = net()
    admm = sl.ADMM(model, sparsity=0.8, rho=0.3) if pulled else None
    optimizer = sl.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, admm=admm)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    if pulled:
        assert twin_optimizer.admm is not admm
    for network, steps in ((model, optimizer), (twin, twin_optimizer)):
        torch.manual_seed(1)
        train(network, steps)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
