"""What all packages are held to: a sparse model is its dense twin with the masks multiplied in."""

import copy

import torch

import sparselth as sl


def twin_of(model, masks):
    """Return a dense copy with the masks multiplied in, and make `model` sparse."""
    dense = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            dense.get_parameter(name).mul_(mask)
    sl.sparsify(model, masks)
    return dense


def assert_agree(model, dense, masks, run, **tolerance):
    """Compare outputs, gradients and the model made plain.  run: network -> tensor."""
    outputs, gradients = [], []
    for network in (model, dense):
        network.zero_grad()
        torch.manual_seed(1)
        outputs.append(run(network))
        outputs[-1].square().mean().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*outputs, **tolerance)
    got, want = gradients
    assert got.keys() == want.keys()
    for name, gradient in want.items():
        if name in masks:
            gradient = gradient * masks[name]
        size = gradient.abs().max().clamp(min=1e-30)  # untrained networks have gradients of any
        torch.testing.assert_close(
            got[name] / size, gradient / size, msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )
    for name, mask in masks.items():
        gradient = model.get_parameter(name).grad
        assert gradient is None or not gradient[~mask].any()
    assert sl.sparsity(model) == sl.sparsity(masks)
    model.eval()
    with torch.no_grad():
        want = run(model)
        torch.testing.assert_close(run(sl.densify(copy.deepcopy(model))), want, **tolerance)
    plain = sl.densify(copy.deepcopy(model))
    assert [type(m) for m in plain.modules()] == [type(m) for m in dense.modules()]
    assert plain.state_dict().keys() == dense.state_dict().keys()
