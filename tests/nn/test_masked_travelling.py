"""Activations travel between masked convolutions in lanes, and no model can tell."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import sparselth as sl
from sparselth.models import build
from sparselth.ops.lanes.convert import LaneTensor
from sparselth.ops.lanes.handlers import norm

pytestmark = pytest.mark.usefixtures("travelling", "one_thread")


def conv(inputs, outputs, kernel=3, stride=1, bias=False, **options):
    options = {"padding": kernel // 2, **options}
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, bias=bias, **options)


class Residual(nn.Module):
    """A residual block as user code writes it: with or without downsampling, `+` or `+=`."""

    def __init__(self, inputs, outputs, stride=1, inplace=True, accumulate=False):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=inplace)
        self.accumulate = accumulate
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.accumulate:
            out += self.downsample(x)
        else:
            out = self.downsample(x) + out
        return self.relu(out)


class Excite(nn.Module):
    """Channel attention and a dropout: ops without a handler in the middle of a network."""

    def forward(self, x):
        return F.dropout(x * torch.sigmoid(x.mean((2, 3), keepdim=True)), 0.0)


def head(channels):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


NETS = {
    "plain": lambda: nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6, 5, 2), *head(6)
    ),
    "without batch norm": lambda: nn.Sequential(
        conv(3, 8, bias=True), nn.ReLU(True), conv(8, 6, 1, bias=True), nn.ReLU(), *head(6)
    ),
    "residual": lambda: nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), Residual(8, 8), Residual(8, 8), *head(8)
    ),
    "downsampling": lambda: nn.Sequential(
        conv(3, 8), Residual(8, 12, 2, inplace=False), Residual(12, 12, inplace=False), *head(12)
    ),
    "accumulating": lambda: nn.Sequential(
        conv(3, 8), Residual(8, 8, accumulate=True), Residual(8, 6, 2, accumulate=True), *head(6)
    ),
    "pooling": lambda: nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2)),
        *(conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)),
        *(conv(8, 8, groups=2), nn.BatchNorm2d(8, affine=False), nn.ReLU(True), *head(8)),
    ),
    "other ops": lambda: nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(True), Excite()),
        *(conv(8, 8, padding_mode="reflect"), nn.BatchNorm2d(8, momentum=None), nn.SiLU(True)),
        *(conv(8, 8, padding="same", dilation=2), nn.GroupNorm(2, 8), nn.LeakyReLU(0.1, True)),
        *(nn.Dropout2d(0.0), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), *head(8)),
    ),
}


def masks_for(model):
    return {
        f"{name}.weight": torch.rand_like(module.weight) < 0.25
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }


def sparse(model):
    model = model.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return sl.sparsify(model, masks_for(model))


def images(batch, size=9):
    return torch.randn(batch, 3, size, size, dtype=torch.float64)


def assert_same_step(model, x, step=lambda model, x: model(x)):
    """Compare output, gradients and buffers with those of the dense reference."""
    reference = copy.deepcopy(model)
    results = []
    for twin, backend in ((model, nullcontext()), (reference, sl.use_backend("reference"))):
        inputs = x.clone().requires_grad_()
        twin.zero_grad()
        with backend:
            out = step(twin, inputs)
            out.square().sum().backward()
        grads = [inputs.grad, *(p.grad for p in twin.parameters())]
        results.append([out + 0, *grads, *twin.buffers()])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


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


# --- what it is for ---------------------------------------------------------------------------


def record(function):
    """Return what a function ran: op name -> number of calls."""
    with profile(activities=[ProfilerActivity.CPU]) as recorder:
        function()
    return {event.key.removeprefix("sparselth::"): event.count for event in recorder.key_averages()}


def record_forward(model):
    """Return what the forward of three images ran, and its result."""
    results = []
    return record(lambda: results.append(model(images(3)))), results[0]


def test_a_residual_network_converts_at_its_ends_alone():
    model = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), Residual(8, 8), Residual(8, 12, 2), *head(12)
    ).double()
    masks = masks_for(model)
    del masks["0.weight"]  # as is usual, the first convolution stays dense
    sl.sparsify(model, masks)
    calls, out = record_forward(model)
    assert calls["to_lanes"] == 1
    assert calls["from_lanes"] == 1
    assert calls["lanes_conv2d"] == 5
    # Batch norm, addition and ReLU: one pass each time; the stem's too.
    assert calls["lanes_scale_add_relu"] == 5
    calls = record(lambda: out.sum().backward())
    assert calls["to_lanes"] == 1
    assert calls["from_lanes"] == 1
    assert calls["lanes_batch_norm_backward"] == 6
    # Gates go with batch norms, or with the addition of the identity branch's gradient; the
    # branches of the downsampling block meet without a gate.
    assert calls["lanes_relu_backward_add"] == 1
    assert calls["lanes_scale_add_relu"] == 1


def test_mobilenet_stays_in_lanes_between_its_ends():
    model = build("mobilenetv2", width=0.25).double()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9))
    calls, out = record_forward(model)
    assert (calls["to_lanes"], calls["from_lanes"]) == (1, 1)
    # A norm and its ReLU6 are one pass, a norm and the addition after it another, and a norm that
    # has neither a third: 52 norms.
    assert calls["lanes_scale_add_relu"] == 52
    calls = record(lambda: out.sum().backward())
    assert (calls["to_lanes"], calls["from_lanes"]) == (1, 1)
    # Gates go with the norms before them, unread; gradients of branches are added.
    assert "lanes_relu_backward_add" not in calls
    assert calls["lanes_scale_add_relu"] == 10


@pytest.mark.parametrize("between", [nn.Identity, lambda: nn.MaxPool2d(2)])
def test_a_relu_after_a_batch_norm_is_not_read_again(between, monkeypatch):
    gates = []

    def noted(*given):
        gates.append(arguments(*given))
        return gates[-1]

    arguments = norm._gate_arguments
    monkeypatch.setattr(norm, "_gate_arguments", noted)
    model = sparse(
        nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), between(), conv(8, 8), *head(8))
    )
    model(images(3)).sum().backward()
    ((gate, _, scale, shift),) = gates
    assert gate is None
    assert scale.shape == shift.shape == (8,)


def test_pooling_stays_in_lanes():
    model = sparse(NETS["pooling"]())
    calls, out = record_forward(model)
    assert (calls["to_lanes"], calls["from_lanes"]) == (1, 1)
    assert (calls["lanes_max_pool2d"], calls["lanes_scale_add_relu"]) == (2, 3)
    calls = record(lambda: out.sum().backward())
    assert calls["to_lanes"] == 1
    assert "from_lanes" not in calls
    assert calls["lanes_max_pool2d_backward"] == 2


def test_an_activation_seen_by_the_user_goes_on_in_lanes():
    model = sparse(nn.Sequential(conv(3, 8), conv(8, 8), conv(8, 8)))
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    calls = record(lambda: model(images(2)))
    assert (calls["to_lanes"], calls["from_lanes"], calls["lanes_conv2d"]) == (2, 1, 3)


def test_the_reference_stays_plain():
    model = sparse(NETS["residual"]())
    with sl.use_backend("reference"):
        calls = record(lambda: model(images(2)))
    assert not any("lanes" in name for name in calls)


def test_a_convolution_of_the_user_sees_and_returns_activations():
    model = sparse(nn.Sequential(conv(3, 8), conv(8, 4)))
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = images(2)
    out = model(x)
    assert isinstance(out, LaneTensor)
    with sl.use_backend("reference"):
        torch.testing.assert_close(seen[0].dense(), model[0](x))
    torch.testing.assert_close(model(x[0]), out[0])
    assert out.shape == (2, 4, 9, 9)
    assert [module.weight.grad for module in model] == [None, None]


# --- what users do with models ----------------------------------------------------------------


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
