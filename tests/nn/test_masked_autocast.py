"""Masked modules under autocast, in the middle of layers that leave other types behind."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)),
        *(nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 64), nn.ReLU()),
        nn.Linear(64, 10),
    )
    masks = {f"{i}.weight": torch.rand_like(model[i].weight) < 0.05 for i in (2, 6)}
    return sl.sparsify(model, masks)


@pytest.mark.parametrize("backend", [None, "cpu"])
def test_masked_modules_are_cast_as_dense_ones_are(backend):
    if backend and not sl.ops.libraries.has_kernel("masked_conv2d", "cpu"):
        pytest.skip("the compiled kernels are not there")
    model, x = network(), torch.randn(4, 3, 8, 8)
    twin = copy.deepcopy(model)
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
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert a.grad.dtype == torch.float32
        assert (a.grad - b.grad).norm() <= 0.05 * b.grad.norm()


def test_16_bit_networks_are_dense_on_a_cpu_unless_asked():
    conv = network().to(torch.bfloat16)[2]
    x = torch.randn(2, 32, 8, 8, dtype=torch.bfloat16)
    assert not conv.choice(x).sparse
    if sl.ops.libraries.has_kernel("masked_conv2d", "cpu"):
        with sl.use_backend("cpu"):
            assert conv.choice(x).sparse


def test_what_is_said_under_autocast_is_what_runs():
    model, x = network(), torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert not model[2].choice(torch.randn(4, 32, 8, 8)).sparse
        assert {*sl.profile(model, x).rows[0].backend.values()} == {"dense"}
