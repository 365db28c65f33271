"""Masked modules choose between sparse and dense: when they measure, and what they then compute."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.ops import libraries, reference
from sparselth.ops.kernel_choice import decide, measure_cpu
from sparselth.ops.kernel_choice.measure_cpu import PASSES, PassTiming, Timings
from sparselth.ops.lanes import convert as lanes_module
from sparselth.ops.lanes.convert import enter_lanes
from sparselth.ops.lanes.tensor import LaneTensor

pytestmark = pytest.mark.usefixtures("travelling", "one_thread")


class Fake:
    """Stands in for the stop watch: `sparse` and `dense` milliseconds for each pass."""

    def __init__(self):
        self.calls = 0
        self.sparse, self.dense = (1.0, 1.0, 1.0), (9.0, 9.0, 9.0)
        self.dense_for = lambda weight: False

    def __call__(self, _size, weight, *args, **kwargs):
        self.calls += 1
        dense = (0.1, 0.1, 0.1) if self.dense_for(weight) else self.dense
        pairs = zip(PASSES, self.sparse, dense, strict=True)
        return Timings({name: PassTiming(s, d) for name, s, d in pairs})


@pytest.fixture
def clock(monkeypatch):
    fake = Fake()
    monkeypatch.setattr(measure_cpu, "measure_conv", fake)
    monkeypatch.setattr(measure_cpu, "measure_linear", fake)
    decide.clear_choices()
    with sl.use_choice("measured"):
        yield fake
    decide.clear_choices()


def masked_conv(density=0.5, dtype=torch.float32, **options):
    conv = nn.Conv2d(4, 6, 3, **{"padding": 1, **options}).to(dtype)
    mask = torch.rand_like(conv.weight) < density
    return sl.sparsify(conv, {"weight": mask})


X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def test_the_choice_follows_the_measurement(clock):
    conv = masked_conv(density=0.9)
    y = conv(X)
    assert isinstance(y, LaneTensor)
    assert conv.choice(X).sparse
    assert conv.choice(X).by == "measured"
    clock.dense = (0.5, 0.5, 0.5)
    other = masked_conv(density=0.1)
    assert type(other(X)) is torch.Tensor
    assert not other.choice(X).sparse


def test_it_is_measured_once_per_kind_of_input(clock):
    conv = masked_conv()
    for _ in range(3):
        conv(X)
    assert clock.calls == 1
    conv(X[:2])  # another batch, rounded to another power of two
    assert clock.calls == 2
    conv(X.requires_grad_())  # the same measurement, another sum
    with torch.no_grad():
        conv(X)
    conv(enter_lanes(X))
    X.requires_grad_(False)
    assert clock.calls == 2
    masked_like = sl.sparsify(nn.Conv2d(4, 6, 3, padding=1), {"weight": conv.weight_mask})
    masked_like(X)  # another module, the same problem
    assert clock.calls == 2


def test_a_new_mask_is_measured_anew(clock):
    conv = masked_conv(density=0.9)
    conv(X)
    conv.weight_mask[:, :, 0] = False
    conv(X)
    assert clock.calls == 2
    conv.set_mask(torch.rand_like(conv.weight) < 0.1)
    conv(X)
    assert clock.calls == 3
    clock.dense = (0.1, 0.1, 0.1)
    decide.clear_choices()
    assert conv.choice(X).sparse  # kept by the module until its mask changes
    conv.refresh_mask()
    assert not conv.choice(X).sparse


def test_inputs_of_every_size_fall_back_on_the_table(clock):
    conv = masked_conv(density=0.1)
    for height in range(3, 40):
        conv(torch.randn(1, 4, height, 3))
    assert clock.calls == 16
    assert conv.choice(torch.randn(1, 4, 50, 3)).by == "fixed"


def test_without_gradients_only_the_forward_counts(clock):
    clock.sparse, clock.dense = (1.0, 90.0, 90.0), (9.0, 9.0, 9.0)
    conv = masked_conv()
    conv.choice(X)
    with torch.no_grad():
        assert conv.choice(X).sparse_ms == 1.0
        assert conv.choice(X).dense_ms == 9.0
    assert conv.choice(X).dense_ms == 18.0  # X wants no gradient
    conv.weight.requires_grad_(False)
    assert conv.choice(X).dense_ms == 9.0


@pytest.mark.parametrize("how", ["fixed", "reference", "deterministic", "compiled", "traced"])
def test_what_is_never_measured(clock, how):
    conv = masked_conv()
    if how == "fixed":
        with sl.use_choice("fixed"):
            conv(X)
    elif how == "reference":
        with sl.use_backend("reference"):
            assert type(conv(X)) is torch.Tensor
            assert conv.choice(X).by == "fixed"
    elif how == "deterministic":
        torch.use_deterministic_algorithms(True)
        try:
            conv(X)
        finally:
            torch.use_deterministic_algorithms(False)
    elif how == "compiled":
        compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), conv(X).dense())
        clock.calls -= 1  # that of the comparison
    else:
        torch.jit.trace(conv, X, check_trace=False)
    assert clock.calls == 0


@pytest.mark.skipif(not libraries.status()[0].loaded, reason="needs the compiled CPU library")
def test_a_forced_kernel_is_never_measured(clock):
    clock.sparse, clock.dense = (9.0, 1.0, 1.0), (1.0, 9.0, 9.0)
    conv = masked_conv(density=0.9)
    conv(X)
    assert conv.choice(X).dense_passes == {"forward"}
    with sl.use_backend("cpu"):
        assert isinstance(conv(X), LaneTensor)
        assert conv.choice(X).dense_passes == frozenset()
    assert clock.calls == 1


def test_an_input_that_does_not_fit_gets_the_usual_error(clock):
    conv = masked_conv(density=0.1)
    with pytest.raises(sl.SparselthError, match="channels do not fit"):
        conv(torch.randn(3, 5, 6, 6))
    linear = sl.sparsify(nn.Linear(6, 5), {"weight": torch.zeros(5, 6, dtype=torch.bool)})
    with pytest.raises(sl.SparselthError, match="must end in 6 features"):
        linear(torch.randn(3, 5))
    assert clock.calls == 0


def gradients(module, x):
    x = x.detach().clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])]


SUBSETS = [frozenset(n for i, n in enumerate(PASSES) if bits >> i & 1) for bits in range(1, 7)]


@pytest.mark.parametrize("dense", SUBSETS, ids=lambda s: "+".join(sorted(s)))
def test_dense_passes_of_a_sparse_layer_compute_the_same(clock, dense):
    clock.sparse = tuple(1.1 if name in dense else 1.0 for name in PASSES)
    clock.dense = tuple(1.0 if name in dense else 20.0 for name in PASSES)
    linear = nn.Linear(8, 5).double()
    sl.sparsify(linear, {"weight": torch.rand(5, 8) < 0.5})
    for module, x in (
        (masked_conv(dtype=torch.float64, stride=2), torch.randn(3, 4, 7, 7)),
        (linear, torch.randn(2, 3, 8)),
    ):
        x = x.double()
        got = gradients(module, x)
        made = module.choice(x.requires_grad_())
        assert made.sparse
        assert made.dense_passes == dense
        with sl.use_backend("reference"):
            torch.testing.assert_close(got, gradients(module, x))


def test_a_backward_keeps_the_choice_of_its_forward(clock, monkeypatch):
    """Two inputs in flight at once, each with passes of its own."""
    clock.sparse, clock.dense = (1.0, 1.0, 9.0), (9.0, 9.0, 1.0)
    conv = masked_conv(dtype=torch.float64)
    x = X.double()
    first = conv(x)
    clock.sparse, clock.dense = (1.0, 1.0, 1.0), (9.0, 9.0, 9.0)
    conv(x[:1])
    ran = []
    op = "masked_conv2d_grad_weight"
    plain = reference.oracle(op)
    monkeypatch.setitem(reference._ORACLES, op, lambda *args: ran.append(1) or plain(*args))
    first.sum().backward()
    assert ran


def test_a_dense_layer_between_sparse_ones(clock):
    clock.dense_for = lambda weight: weight.shape[-1] == 5
    model = nn.Sequential(
        *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Conv2d(4, 4, 3, padding=1),
    ).double()
    masks = {f"{i}.weight": torch.rand_like(model[i].weight) < 0.5 for i in (0, 3, 6)}
    sl.sparsify(model, masks)
    got = gradients(model, X.double())
    made = [next(iter(model[i].service.choices.values())) for i in (0, 3, 6)]
    assert [choice.sparse for choice in made] == [True, False, True]
    with sl.use_backend("reference"):
        torch.testing.assert_close(got, gradients(model, X.double()))


def test_a_plain_gradient_is_converted_once(clock, monkeypatch):
    conv = masked_conv()
    y = conv(X.clone().requires_grad_())
    calls = []
    real = lanes_module.as_lanes
    monkeypatch.setattr(lanes_module, "as_lanes", lambda x: calls.append(x.shape) or real(x))
    y.backward(torch.ones(y.shape))
    assert calls == [y.shape]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dense_layer_follows_its_mask(clock, dtype):
    clock.dense = (0.1, 0.1, 0.1)
    conv = masked_conv(dtype=dtype)
    x = X.to(dtype)
    for _ in range(2):
        with torch.no_grad():
            conv.weight[~conv.weight_mask] = float("nan")  # must never be read
        got = gradients(conv, x)
        with sl.use_backend("reference"):
            torch.testing.assert_close(got, gradients(conv, x))
        assert not got[2][~conv.weight_mask].any()
        conv.weight_mask[1] = False
        conv.refresh_mask()


def test_a_full_mask_is_plain_convolution(clock):
    clock.dense = (0.1, 0.1, 0.1)
    conv = nn.Conv2d(4, 6, 3, padding=1)
    plain = copy.deepcopy(conv)
    sl.sparsify(conv, {"weight": torch.ones_like(conv.weight, dtype=torch.bool)})
    for got, want in zip(gradients(conv, X), gradients(plain, X), strict=True):
        assert torch.equal(got, want)
    conv.weight_mask[0] = False
    assert not gradients(conv, X)[2][0].any()


def test_choices_are_never_saved(clock):
    conv = masked_conv()
    conv(X)
    assert conv.service.choices
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert not twin.service.choices
        torch.testing.assert_close(twin(X).dense(), conv(X).dense())
    assert set(conv.state_dict()) == {"weight", "bias", "weight_mask"}
    sl.densify(conv)
    assert not set(vars(conv)) & {"_choices", "_dense_passes", "_plan"}


def test_no_graph_is_kept_alive(clock):
    clock.sparse, clock.dense = (2.0, 1.0, 2.0), (1.0, 9.0, 1.0)
    conv = masked_conv(dtype=torch.float64)
    y = conv(X.double().requires_grad_())
    assert conv.choice(X.double().requires_grad_()).dense_passes == {"forward", "grad_weight"}
    node = weakref.ref(y.grad_fn)
    y.sum().backward()
    del y
    gc.collect()
    assert node() is None


@pytest.mark.skipif(not libraries.status()[0].loaded, reason="needs the compiled CPU library")
def test_measured_for_real_a_full_mask_is_dense_and_an_empty_one_sparse():
    x = torch.randn(16, 128, 8, 8)
    decide.clear_choices()
    with sl.use_choice("measured"):
        for sparsity, wins in ((0.0, False), (0.99, True)):
            conv = nn.Conv2d(128, 128, 3, padding=1, bias=False)
            mask = sl.ops.topk_mask(conv.weight, round((1 - sparsity) * conv.weight.numel()))
            sl.sparsify(conv, {"weight": mask})
            made = conv.choice(x.requires_grad_())
            assert made.sparse is wins, made


def test_a_mask_that_keeps_everything_is_never_measured(clock):
    clock.sparse, clock.dense = (1.0, 1.0, 1.0), (9.0, 9.0, 9.0)
    conv = masked_conv(density=1.0)
    assert not conv.choice(X).sparse
    assert conv.choice(X).by == "fixed"
