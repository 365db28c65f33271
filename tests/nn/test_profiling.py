"""`sparselth.profile`: a row per masked layer, and a model that is left as it was."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.ops import libraries
from sparselth.ops.kernel_choice import decide, measure_cpu
from sparselth.ops.kernel_choice.measure_cpu import PASSES, Conversions, PassTiming, Timings

pytestmark = pytest.mark.usefixtures("travelling", "one_thread")


@pytest.fixture
def clock(monkeypatch):
    """Time nothing: sparse takes 1 ms and dense 4 ms a pass, a conversion 0.5 ms."""
    passes = {name: PassTiming(1.0, 4.0, 1.0) for name in PASSES}
    times = Timings(passes, Conversions(0.5, 0.5, 0.5, 0.5))
    monkeypatch.setattr(measure_cpu, "measure_conv", lambda *args, **kwargs: times)
    monkeypatch.setattr(measure_cpu, "measure_linear", lambda *args, **kwargs: Timings(passes))
    decide.clear_choices()
    yield
    decide.clear_choices()


def net():
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.Identity(), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        nn.Linear(4, 2),
    )
    return sl.sparsify(model, sl.find_masks(model, sparsity=0.75))


X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("clock")
def test_a_row_per_layer():
    model = net()
    with sl.use_choice("measured"):
        rows = sl.profile(model, X).rows
    assert [row.name for row in rows] == ["3", "7", "10"]
    assert [row.kind for row in rows] == ["MaskedConv2d", "MaskedConv2d", "MaskedLinear"]
    assert rows[0].geometry == "2x8x10x10 -> 8, 3x3 /2, 2 groups"
    assert rows[2].geometry == "2x8 -> 4"
    assert [row.sparsity for row in rows] == pytest.approx([0.75] * 3)
    assert {row.pattern for row in rows} <= {"element", "filter", "channel"}
    assert [row.in_lanes for row in rows] == [False, True, False]
    assert {row.by for row in rows} == {"measured"}
    assert rows[0].backend == dict.fromkeys(PASSES, "sparse")
    assert [row.dense_ms for row in rows] == [12.0] * 3
    assert [row.sparse_ms for row in rows] == [5.0, 3.0, 3.0]
    assert [row.chosen_ms for row in rows] == [5.0, 3.0, 3.0]
    assert rows[1].ratio == 4.0


@pytest.mark.usefixtures("clock")
def test_the_forward_alone():
    with sl.use_choice("measured"):
        rows = sl.profile(net(), X, backward=False).rows
    assert rows[0].backend == {"forward": "sparse"}
    assert [row.dense_ms for row in rows] == [4.0] * 3


@pytest.mark.usefixtures("clock")
def test_printed_it_is_an_aligned_table_with_totals():
    with sl.use_choice("measured"):
        lines = str(sl.profile(net(), X)).splitlines()
    assert lines[0].split() == (
        ["layer", "input", "sparsity", "pattern", "backend", "dense", "ms", "sparse", "ms", "ratio"]
    )
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split() == ["total", "as", "chosen", "11.00", "ms", "36.00", "11.00", "3.27"]
    assert str(sl.profile(nn.Linear(2, 2), torch.ones(1, 2))).startswith("no masked layers")


@pytest.mark.usefixtures("clock")
def test_fixed_and_forced_choices_are_shown_and_timed_all_the_same():
    for around in (sl.use_choice("fixed"), sl.use_backend("reference")):
        with around:
            row = sl.profile(net(), X).rows[0]
        assert row.by == "fixed"
        assert row.dense_ms == 12.0
    assert row.backend["forward"] == "dense"
    assert row.chosen_ms == 12.0


def test_without_kernels_there_are_no_times(monkeypatch):
    monkeypatch.setattr(decide.libraries, "has_kernel", lambda op, backend: False)
    made = sl.profile(net(), X)
    assert made.rows[0].timings is None
    assert made.rows[0].backend["forward"] == "dense"
    assert str(made).splitlines()[-1].split() == ["total", "-", "-", "-"]


@pytest.mark.usefixtures("clock")
def test_the_model_is_left_as_it_was():
    model = net()
    model[4].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    sl.profile(model, X)
    with pytest.raises(sl.SparselthError):
        sl.profile(model, torch.randn(2, 5, 12, 12))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.skipif(not libraries.status()[0].loaded, reason="needs the compiled CPU library")
def test_for_real():
    with sl.use_choice("measured"):
        rows = sl.profile(net(), X).rows
    assert all(row.dense_ms > 0 and row.sparse_ms > 0 for row in rows)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (
            nn.Linear(4, 4),
            nn.Conv1d(2, 4, 3),
            nn.Conv3d(1, 2, 1),
        )

    def forward(self, x, z, scale=1.0):
        return self.first(input=x).sum() + self.second(z).sum() * scale + self.third(z[None]).sum()


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", [tuple, list, lambda pair: dict(zip("xz", pair, strict=True))])
def test_a_model_of_several_inputs(kind):
    model = TwoInputs()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))
    found = sl.profile(model, kind([torch.randn(3, 4), torch.randn(1, 2, 9)][:2]))
    assert [row.name for row in found.rows] == ["first", "second", "third"]
    assert found.rows[2].backend == {"forward": "dense"}
    assert "third" in str(found)


def test_what_is_no_input_is_named():
    with pytest.raises(sl.SparselthError, match="a dict of them by keyword; got str"):
        sl.profile(net(), "x")
    model = nn.Sequential(nn.Linear(6, 6))
    sl.sparsify(model, {"0.weight": torch.rand(6, 6) < 0.5})
    for x, message in (
        (torch.randn(2, 5), r"cannot be called with x, torch\.float32 of shape \(2, 5\)"),
        ([], "cannot be called with x, nothing"),
        ([3], "layer '0' got no tensor; x is what the model takes, got int"),
    ):
        with pytest.raises(sl.SparselthError, match=message):
            sl.profile(model, x)
    with pytest.raises(sl.SparselthError, match="names takes a list of names, got the text"):
        sl.coverage(model, "0.weight")
