"""Masked modules under autocast, in the middle of layers that leave other types behind."""

import copy

import pytest
import torch
from support.strategies import NARROW
from support.traveling_nets import NETS
from torch import nn

import sparselth as sl
from sparselth.ops.lanes.tensor import LaneTensor


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)),
        *(nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 64), nn.ReLU()),
        nn.Linear(64, 10),
    )
    masks = {f"{i}.weight": torch.rand_like(model[i].weight) < 0.05 for i in (2, 6)}
    return sl.sparsify(model, masks)


def assert_as_exact_as_dense(gradients):
    """Compare errors over several inputs: which gates of a ReLU flip in one, nobody can know.

    gradients: of each input those of all parameters, ours, dense and in float32.
    """
    off = dense_off = 0.0
    for of_input in gradients:
        ours, dense, exact = (torch.cat([t.flatten() for t in each]) for each in of_input)
        off += (ours - exact).square().sum().item()
        dense_off += (dense - exact).square().sum().item()
    assert off**0.5 <= 1.5 * dense_off**0.5


@pytest.mark.parametrize("backend", [None, "cpu"])
def test_masked_modules_are_cast_as_dense_ones_are(backend):
    if backend and not sl.ops.libraries.has_kernel("masked_conv2d", "cpu"):
        pytest.skip("the compiled kernels are not there")
    compared = [of_one_input(network(seed), torch.randn(16, 3, 8, 8), backend) for seed in range(6)]
    assert_as_exact_as_dense(compared)


def of_one_input(model, x, backend):
    """Compare what comes out; return the gradients of all parameters, ours, dense and exact."""
    twin, exact = copy.deepcopy(model), copy.deepcopy(model)
    with sl.use_backend("reference"):
        exact(x).square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        if backend:
            with sl.use_backend(backend):
                got = [model(x) for _ in range(2)]
        else:
            got = [model(x) for _ in range(2)]
        with sl.use_backend("reference"):
            want = [twin(x) for _ in range(2)]
    got[0].float().square().sum().backward()
    want[0].float().square().sum().backward()
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        assert (a - b).norm() < 0.02 * b.norm()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    return [[p.grad for p in m.parameters()] for m in (model, twin, exact)]


@pytest.mark.skipif(
    not sl.ops.libraries.has_kernel("masked_conv2d", "cpu"), reason="no compiled kernels"
)
def test_16_bits_on_a_cpu_have_a_table_of_their_own():
    """Linear layers need fewer weights."""
    with sl.use_choice("fixed"):
        for dtype in (torch.bfloat16, torch.float16):
            model = network().to(dtype)
            assert model[2].choice(torch.randn(2, 32, 8, 8).to(dtype)).sparse
            rows = torch.randn(2, 32 * 64).to(dtype)
            assert not model[6].choice(rows).sparse
            model[6].set_mask(torch.rand(model[6].weight.shape) < 0.02)
            assert model[6].choice(rows).sparse
            with sl.use_backend("cpu"):
                assert model[2].choice(torch.randn(2, 32, 8, 8).to(dtype)).sparse


def test_what_is_said_under_autocast_is_what_runs():
    model = network()
    kernels = sl.ops.libraries.has_kernel("masked_conv2d", "cpu")
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype), sl.use_choice("fixed"):
            assert model[2].choice(torch.randn(4, 32, 8, 8)).sparse is kernels


# --- 16 bits in lanes -------------------------------------------------------------------------


def sparse(name):
    torch.manual_seed(0)
    model = NETS[name]()
    return sl.sparsify(model, sl.find_masks(model, sparsity=0.9))


def step(model, x, dtype=torch.bfloat16, enabled=True):
    """Return loss and gradients of a step, under autocast to `dtype` if `enabled`."""
    model.zero_grad()
    with sl.use_choice("fixed"), torch.autocast("cpu", dtype, enabled=enabled):
        y = model(x)
    loss = y.float().square().mean()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", sorted(NETS))
def test_networks_in_lanes_train_as_dense_ones_under_autocast(name, dtype):
    """Over several steps: from the second on they go by the paths that the first left."""
    model = sparse(name)
    twin, exact = copy.deepcopy(model), copy.deepcopy(model)
    compared = []
    for _ in range(6):
        x = torch.randn(16, 3, 12, 12)
        loss, grads = step(model, x, dtype)
        with sl.use_backend("reference"):
            dense_loss, dense_grads = step(twin, x, dtype)
            exact_loss, exact_grads = step(exact, x, enabled=False)
        assert (loss - exact_loss).abs() <= 2 * (dense_loss - exact_loss).abs() + 0.03 * exact_loss
        assert {grad.dtype for grad in grads} == {torch.float32}
        compared.append((grads, dense_grads, exact_grads))
        for t, u in zip(model.buffers(), exact.buffers(), strict=True):
            assert t.dtype == u.dtype
            torch.testing.assert_close(t, u, rtol=0.05, atol=0.05)
    assert_as_exact_as_dense(compared)


@pytest.mark.usefixtures("traveling")
@pytest.mark.parametrize("dtype", NARROW)
def test_activations_stay_in_16_bits_between_layers(dtype):
    model = sparse("residual")
    seen = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)):
            module.register_forward_hook(lambda m, i, o: seen.append((type(o), o.dtype)))
    with torch.autocast("cpu", dtype), sl.use_choice("fixed"):
        model(torch.randn(20, 3, 12, 12))
    kinds = set(seen[1:])  # the first convolution is dense
    assert kinds == {(LaneTensor, dtype)}


@pytest.mark.parametrize("dtype", NARROW)
def test_a_network_of_16_bits_stays_in_lanes_too(dtype):
    model = sparse("residual").to(dtype)
    exact = copy.deepcopy(model).float()
    x = torch.randn(20, 3, 12, 12)
    with sl.use_choice("fixed"):
        y = model(x.to(dtype))
        y.float().square().mean().backward()
        want = exact(x)
        want.square().mean().backward()
    assert (y - want).norm() < 0.1 * want.norm()
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        assert p.grad.dtype == dtype
        assert (p.grad - q.grad).norm() <= 0.2 * q.grad.norm() + 1e-2
    for t, u in zip(model.buffers(), exact.buffers(), strict=True):
        if t.dtype == dtype:
            torch.testing.assert_close(t.float(), u, rtol=0.02, atol=0.02)


def test_evaluation_after_training_uses_the_running_statistics():
    model = sparse("plain")
    x = torch.randn(20, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16), sl.use_choice("fixed"):
        model(x)
        model.eval()
        with torch.no_grad():
            got = model(x)
            with sl.use_backend("reference"):
                want = model(x)
    assert (got - want).norm() < 0.03 * want.norm()


def test_leaving_autocast_leaves_16_bits():
    """A path found under autocast serves nothing outside, and the other way round."""
    model = sparse("residual")
    x = torch.randn(20, 3, 12, 12)
    with sl.use_choice("fixed"):
        want = model(x)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                assert model(x).dtype == torch.bfloat16
            model.load_state_dict(model.state_dict())
            got = model(x)
            assert got.dtype == torch.float32
    assert torch.equal(want, got)
