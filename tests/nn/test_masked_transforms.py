"""torch.func, forward mode and batches of gradients: as a dense model with masked weights."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

import sparselth as sl

LAYERS = {
    "linear": (lambda: nn.Linear(5, 6), (3, 5)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 2), (3, 2, 4, 4)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 2), (3, 2, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3)),
}


def pair(layer):
    """A sparse model, its dense twin, an input and the mask; float64."""
    torch.manual_seed(0)
    make, shape = LAYERS[layer]
    model = nn.Sequential(make()).double()
    mask = torch.rand_like(model[0].weight) < 0.5
    sl.sparsify(model, {"0.weight": mask})
    x = torch.randn(shape, dtype=torch.float64)
    model(x).sum().backward()  # whatever a first call derives
    model.zero_grad()
    return model, sl.densify(copy.deepcopy(model)), x, mask


def weights_of(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def of_weights(model, x):
    return lambda weights: functional_call(model, weights, (x,))


def dual(model, x, mask):
    with forward_ad.dual_level():
        y = model(forward_ad.make_dual(x, torch.ones_like(x)))
        return forward_ad.unpack_dual(y).tangent


def dual_weight(model, x, mask):
    weights = weights_of(model)
    with forward_ad.dual_level():
        tangent = torch.ones_like(weights["0.weight"]) * mask
        weights["0.weight"] = forward_ad.make_dual(weights["0.weight"], tangent)
        return forward_ad.unpack_dual(functional_call(model, weights, (x,))).tangent


def jvp_of_weights(model, x, mask):
    weights = weights_of(model)
    tangents = {name: torch.ones_like(w) for name, w in weights.items()}
    tangents["0.weight"] = tangents["0.weight"] * mask
    return jvp(of_weights(model, x), (weights,), (tangents,))[1]


def gradient_of_weights(model, x, mask):
    found = grad(lambda weights: of_weights(model, x)(weights).square().sum())(weights_of(model))
    return found["0.weight"] * mask


def per_sample(model, x, mask):
    def loss(weights, one):
        return functional_call(model, weights, (one[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(weights_of(model), x)
    return found["0.weight"] * mask


def functional_jacobian(vectorize, strategy="reverse-mode"):
    return lambda model, x, mask: torch.autograd.functional.jacobian(
        model, x, vectorize=vectorize, strategy=strategy
    )


def batched_gradients(model, x, mask):
    y = model(x)
    weights = torch.stack([torch.ones_like(y), y.detach()])
    of = (model[0]._parameters["weight"], model[0].bias)
    found = torch.autograd.grad(y, of, weights, is_grads_batched=True)
    return found[0] * mask, found[1]


def ensemble(model, x, mask):
    models = [model, copy.deepcopy(model)]
    with torch.no_grad():
        models[1][0].bias.add_(1.0)
    parameters, buffers = stack_module_state(models)
    return vmap(lambda p, b: functional_call(model, (p, b), (x,)))(parameters, buffers)


def second_order(model, x, mask):
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(x).sin().sum(), x, create_graph=True)
    first.square().sum().backward()
    return x.grad, model[0]._parameters["weight"].grad * mask


TRANSFORMS = {
    "jvp": lambda model, x, mask: jvp(model, (x,), (torch.ones_like(x),))[1],
    "jvp of weights": jvp_of_weights,
    "vjp": lambda model, x, mask: torch.func.vjp(model, x)[1](model(x))[0],
    "grad": lambda model, x, mask: grad(lambda z: model(z).sin().sum())(x),
    "grad of weights": gradient_of_weights,
    "jacfwd": lambda model, x, mask: jacfwd(model)(x),
    "jacrev": lambda model, x, mask: jacrev(model)(x),
    "hessian": lambda model, x, mask: hessian(lambda z: model(z).sin().sum())(x),
    "vmap": lambda model, x, mask: vmap(lambda z: model(z[None]))(x),
    "per sample": per_sample,
    "dual": dual,
    "dual weight": dual_weight,
    "jacobian": functional_jacobian(False),
    "jacobian, vectorized": functional_jacobian(True),
    "jacobian, forward mode": functional_jacobian(True, "forward-mode"),
    "batched gradients": batched_gradients,
    "ensemble": ensemble,
    "second order": second_order,
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("what", TRANSFORMS)
def test_transforms_agree_with_a_dense_model(what, layer):
    model, dense, x, mask = pair(layer)
    got, want = (TRANSFORMS[what](each, x, mask) for each in (model, dense))
    first = got[0] if isinstance(got, tuple) else got
    assert first.any()
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_of_weights_are_zero_off_the_mask(layer):
    model, _, x, mask = pair(layer)
    found = grad(lambda w: of_weights(model, x)(w).sum())(weights_of(model))["0.weight"]
    assert not found[~mask].any()
    assert found[mask].any()
    given = {**weights_of(model), "0.weight": torch.ones_like(mask, dtype=torch.float64)}
    want = copy.deepcopy(model)
    want[0].weight = nn.Parameter(given["0.weight"])
    torch.testing.assert_close(functional_call(model, given, (x,)), want(x))


def test_the_functions_have_forward_derivatives():
    x, w = torch.randn(2, 3, 5, 5).double(), torch.randn(4, 3, 3, 3).double()
    mask = torch.rand(4, 3, 3, 3) < 0.5

    def sparse(x, w):
        return sl.ops.masked_conv2d(x, w, mask)

    def dense(x, w):
        return nn.functional.conv2d(x, w * mask)

    tangents = (torch.randn_like(x), torch.randn_like(w))
    got, want = jvp(sparse, (x, w), tangents), jvp(dense, (x, w), tangents)
    torch.testing.assert_close(got, want)
    rows, matrix, kept = x.flatten(1), torch.randn(6, 75).double(), torch.rand(6, 75) < 0.5
    tangents = (torch.randn_like(rows), torch.randn_like(matrix))
    got = jvp(lambda x, w: sl.ops.masked_linear(x, w, kept), (rows, matrix), tangents)
    want = jvp(lambda x, w: nn.functional.linear(x, w * kept), (rows, matrix), tangents)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("how", ["jvp", "dual", "hessian", "jacrev"])
def test_the_ops_themselves_have_forward_derivatives(how):
    x, w = torch.randn(2, 3, 5, 5).double(), torch.randn(4, 3, 3, 3).double()
    mask = torch.rand(4, 3, 3, 3) < 0.5
    conv = ([1, 1], [0, 0], [1, 1], 1)

    def op(x):
        return torch.ops.sparselth.masked_conv2d(x, w, mask, None, None, *conv).sin()

    def dense(x):
        return nn.functional.conv2d(x, w * mask).sin()

    def derivative(f):
        if how == "jvp":
            return jvp(f, (x,), (torch.ones_like(x),))[1]
        if how == "jacrev":
            return jacrev(lambda z: f(z).sum())(x)
        if how == "hessian":
            return hessian(lambda z: f(z).sum())(x)
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent

    torch.testing.assert_close(derivative(op), derivative(dense))
    assert derivative(op).any()
