"""Activations travel between masked convolutions in lanes, and no model can tell."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from support.traveling_nets import NETS, assert_same_step, conv, head, images, sparse
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparselth as sl

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [1, 3, 8, 11])
@pytest.mark.parametrize("net", NETS)
def test_a_training_step_is_that_of_the_dense_reference(net, batch, training):
    model = sparse(NETS[net]()).train(training)
    for _ in range(2):
        assert_same_step(model, images(batch))


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_the_papers_networks(name):
    model = sl.models.build(name, width=0.125).double()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.8))
    assert_same_step(model, images(3, 32))
    with torch.no_grad():
        model.eval()
        got = model(images(3, 32))
    assert type(got) is torch.Tensor


def test_inference():
    model = sparse(NETS["residual"]()).eval()
    x = images(5)
    with sl.use_backend("reference"), torch.no_grad():
        want = model(x)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(model(x), want)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("net", ["residual", "pooling"])
def test_checkpointing(net, use_reentrant):
    model = sparse(NETS[net]())

    def step(model, x):
        start, *rest = model
        for module in rest:
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0  # the recomputation updates the statistics again
        x = checkpoint(start, x, use_reentrant=use_reentrant)
        return checkpoint(nn.Sequential(*rest), x, use_reentrant=use_reentrant)

    assert_same_step(model, images(3), step)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("net", ["residual", "downsampling", "pooling"])
def test_a_hessian_vector_product(net, training):
    model = sparse(NETS[net]()).train(training)
    x = images(3)

    def product(model):
        weights = list(model.parameters())
        generator = torch.Generator().manual_seed(0)
        loss = F.cross_entropy(model(x), torch.arange(3))
        grads = torch.autograd.grad(loss, weights, create_graph=True)
        vectors = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
        dot = sum((g * v).sum() for g, v in zip(grads, vectors, strict=True))
        return torch.autograd.grad(dot, weights)

    twin = copy.deepcopy(model)
    got = product(model)
    with sl.use_backend("reference"):
        want = product(twin)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile(backend):
    model = sparse(NETS["residual"]())
    assert_same_step(model, images(3), lambda m, x: torch.compile(m, backend=backend)(x))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_part_of_a_network(backend):
    torch._dynamo.reset()
    model = sparse(NETS["downsampling"]())

    def step(model, x):
        first, second, third, *rest = model
        x = torch.compile(second, backend=backend)(first(x))
        return nn.Sequential(torch.compile(third.conv1, backend=backend), *rest)(x)

    assert_same_step(model, images(3), step)


def test_autocast():
    # Masked layers are cast as dense ones are, also after one that left bfloat16 behind.
    model = sparse(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(True), conv(8, 8)))
    model = nn.Sequential(conv(3, 3), *model, nn.ReLU(), conv(8, 4), *head(4)).float()
    sl.sparsify(model, {f"{len(model) - 1}.weight": torch.rand_like(model[-1].weight) < 0.5})
    twin = copy.deepcopy(model)
    x = images(3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(x)
    assert got.dtype == torch.bfloat16
    with sl.use_backend("reference"):
        want = twin(x)
    got.float().square().sum().backward()
    want.square().sum().backward()
    assert (got - want).norm() < 0.02 * want.norm()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert (a.grad - b.grad).norm() < 0.1 * b.grad.norm()


def test_training_converges_as_it_does_densely():
    x, labels = images(6), torch.arange(6) % 5
    losses = []
    model = sparse(NETS["accumulating"]())
    twins = ((model, nullcontext()), (copy.deepcopy(model), sl.use_backend("reference")))
    for twin, backend in twins:
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
        with backend:
            for _ in range(5):
                optimizer.zero_grad()
                loss = F.cross_entropy(twin(x), labels)
                loss.backward()
                optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.filterwarnings("ignore::Warning")  # tracing is deprecated, and warns of shapes
def test_scripts_traced_hold_no_activation_constant():
    model = sparse(nn.Sequential(conv(3, 4), nn.ReLU())).eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, images(2), check_trace=False)
        x = images(2)
        torch.testing.assert_close(traced(x), model(x).dense())
