"""`sparselth.profile`: a row per masked layer, and a model that is left as it was."""

import copy

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.ops import libraries
from sparselth.ops.kernel_choice import decide, known, measure_cpu
from sparselth.ops.kernel_choice.measure_cpu import PASSES, Conversions, PassTiming, Timings

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


@pytest.fixture
def clock(monkeypatch):
    """Time nothing: sparse takes 1 ms and dense 4 ms a pass, a conversion 0.5 ms."""
    passes = {name: PassTiming(1.0, 4.0, 1.0) for name in PASSES}
    times = Timings(passes, Conversions(0.5, 0.5, 0.5, 0.5))
    monkeypatch.setattr(measure_cpu, "measure_conv", lambda *args, **kwargs: times)
    monkeypatch.setattr(measure_cpu, "measure_linear", lambda *args, **kwargs: Timings(passes))
    known.clear_choices()
    yield
    known.clear_choices()


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
        text = str(sl.profile(net(), X))
    table, left = text.split("\n\n")
    lines = table.splitlines()
    assert lines[0].split() == (
        ["layer", "input", "sparsity", "pattern", "backend", "dense", "ms", "sparse", "ms", "ratio"]
    )
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split() == ["total", "as", "chosen", "11.00", "ms", "36.00", "11.00", "3.27"]
    assert left.splitlines()[0] == "Activations leave the layout of the sparse kernels:"
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


def exits(*layers):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *layers)
    convs = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)][1:]
    shares = {f"{name}.weight": 0.9 for name in convs}
    sl.sparsify(model, sl.find_masks(model, sparsity=shares))
    with sl.use_choice("fixed"):
        found = sl.profile(model, torch.randn(2, 3, 8, 8))
    return found, [(one.name, one.op, one.why) for one in found.exits]


def conv():
    return nn.Conv2d(8, 8, 3, padding=1)


@pytest.mark.parametrize(
    ("layer", "left"),
    [
        (nn.ReLU(), []),
        (nn.ReLU6(), []),
        (nn.BatchNorm2d(8), []),
        (nn.MaxPool2d(2), []),
        (nn.Identity(), []),
        (nn.Dropout(0.5), []),  # which computes nothing in evaluation mode
        (nn.SiLU(), [("3", "aten.silu", "no kernel for it runs on lanes")]),
        (
            nn.MaxPool2d(2, ceil_mode=True),
            [
                (
                    "3",
                    "aten.max_pool2d_with_indices",
                    "on lanes it takes windows of up to 255, dilation=1 and ceil_mode=False only",
                )
            ],
        ),
        (
            nn.Hardtanh(-1, 1),
            [
                (
                    "3",
                    "aten.hardtanh",
                    "on lanes it takes a lower limit of 0 and an upper one above it, as ReLU6 has "
                    "only",
                )
            ],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_where_activations_leave_lanes_and_why(layer, left):
    found, told = exits(conv(), layer, conv(), nn.ReLU())
    assert told == left
    assert ("Activations leave" in str(found)) == bool(left)
    for one in found.exits:
        assert f"  3, {one.op} of 2x8x8x8: {one.why}" in str(found).splitlines()


def test_the_end_of_a_network_is_an_exit_like_any_other():
    _, told = exits(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert told == [("3", "aten.mean", "no kernel for it runs on lanes")]


def test_a_layer_served_densely_is_an_exit():
    model = nn.Sequential(conv(), conv(), conv(), nn.Flatten())
    shares = {"0.weight": 0.95, "1.weight": 0.1, "2.weight": 0.95}
    sl.sparsify(model, sl.find_masks(model, sparsity=shares))
    found = sl.profile(model, torch.randn(2, 8, 8, 8))
    why = [(one.name, one.why) for one in found.exits]
    assert why == [("1", "dense serves this layer"), ("3", "no kernel for it runs on lanes")]


def test_code_between_the_modules_is_the_model_itself():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x):
            return self.b(self.a(x).sigmoid())

    model = Net()
    sl.sparsify(model, sl.find_masks(model, sparsity=0.9, exclude=()))
    found = sl.profile(model, torch.randn(2, 8, 8, 8))
    assert [(one.name, one.op) for one in found.exits] == [("", "aten.sigmoid")]
    assert "  the model, aten.sigmoid of 2x8x8x8: no kernel" in str(found)
    model(torch.randn(2, 8, 8, 8))  # nobody listens afterwards
    assert not any(module._forward_hooks for module in model.modules())
