"""A dense first convolution in lanes: when it is, and that nobody can tell from the results."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.nn import StemConv2d
from sparselth.ops.kernel_choice import known, measure_cpu
from sparselth.ops.kernel_choice.measure_cpu import PASSES, Conversions, PassTiming, Timings
from sparselth.ops.lanes.tensor import LaneTensor

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


def net(**options):
    first = nn.Conv2d(3, 8, 3, **{"padding": 1, **options})
    return nn.Sequential(
        *(first, nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
    )


def sparse(model):
    return sl.sparsify(model, {"3.weight": torch.rand_like(model[3].weight) < 0.05})


@pytest.fixture
def clock(monkeypatch):
    """Let a pass take 1 ms in lanes and `clock.dense` densely; converting y takes half of one."""

    class Clock:
        dense, calls = 9.0, 0

    def measured(*args, **kwargs):
        Clock.calls += 1
        passes = {name: PassTiming(1.0, Clock.dense) for name in PASSES}
        return Timings(passes, Conversions(to_y=0.5, from_y=0.5))

    monkeypatch.setattr(measure_cpu, "measure_conv", measured)
    known.clear_choices()
    with sl.use_choice("measured"):
        yield Clock
    known.clear_choices()


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"stride": 2}, {"kernel_size": 1, "padding": 0}], ids=str
)
@pytest.mark.parametrize("batch", [1, 5, 16])
def test_it_computes_what_the_dense_convolution_does(clock, options, batch):
    size = {"kernel_size": 3, **options}
    plain = net()
    plain[0] = nn.Conv2d(3, 8, **{"padding": 1, **size})
    plain.double()
    model = sparse(copy.deepcopy(plain))
    with torch.no_grad():
        plain[3].weight.copy_(model[3].weight)
    assert type(model[0]) is StemConv2d
    x = torch.randn(batch, 3, 9, 7, dtype=torch.float64)
    assert isinstance(model[0](x), LaneTensor)
    runs = []
    for network in (plain, model):
        inputs = x.clone().requires_grad_()
        y = network(inputs)
        y.square().sum().backward()
        grads = [p.grad for p in (network[0].weight, network[0].bias) if p is not None]
        runs.append([y.detach(), inputs.grad, *grads])
    for want, got in zip(*runs, strict=True):
        torch.testing.assert_close(got + 0, want)


def test_the_layout_it_hands_on_counts(clock):
    clock.dense = 0.9  # with the change of layout it loses
    assert isinstance(sparse(net())[0](torch.randn(2, 3, 5, 5)), LaneTensor)
    known.clear_choices()
    clock.dense = 0.1
    assert type(sparse(net())[0](torch.randn(2, 3, 5, 5))) is torch.Tensor


def test_it_measures_once_for_a_kind_of_input_and_never_by_the_fixed_table(clock):
    model = sparse(net())
    with sl.use_choice("fixed"):
        assert type(model[0](torch.randn(2, 3, 5, 5))) is torch.Tensor
    assert clock.calls == 0
    for _ in range(3):
        model[0](torch.randn(2, 3, 5, 5))
    assert clock.calls == 1


def test_it_is_invisible_to_whoever_saves_or_copies(clock):
    plain = net()
    keys = list(plain.state_dict())
    model = sparse(plain)
    x = torch.randn(2, 3, 5, 5)
    want = model(x) + 0
    assert set(model.state_dict()) == {*keys, "3.weight_mask"}
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin[0]) is StemConv2d
        assert "_everything" not in twin[0].__dict__
        torch.testing.assert_close(twin(x) + 0, want)
    sl.densify(model)
    assert type(model[0]) is nn.Conv2d
    assert "_everything" not in model[0].__dict__
    assert list(model.state_dict()) == keys


def test_a_mask_makes_it_an_ordinary_masked_convolution(clock):
    model = sparse(net())
    model(torch.randn(2, 3, 5, 5))
    sl.sparsify(model, {"0.weight": torch.rand_like(model[0].weight) < 0.5})
    assert type(model[0]) is sl.nn.MaskedConv2d
    assert "_everything" not in model[0].__dict__


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding_mode": "reflect"}], ids=str)
def test_other_paddings_stay_as_they_are(options):
    assert type(sparse(net(**options))[0]) is nn.Conv2d


def test_a_single_image_is_computed_densely(clock):
    model = sparse(net())
    assert type(model[0](torch.randn(3, 5, 5))) is torch.Tensor
    assert clock.calls == 0


def test_a_weight_of_another_type_is_noticed(clock):
    model = sparse(net())
    x = torch.randn(2, 3, 5, 5)
    assert isinstance(model[0](x), LaneTensor)
    model.double()
    with pytest.raises(RuntimeError, match=r"type|dtype"):  # as any convolution says it
        model[0](x)
