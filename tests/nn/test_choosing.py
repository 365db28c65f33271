"""Masked modules choose between sparse and dense: when they measure, and what follows from it."""

import copy
import pickle

import pytest
import torch
from support.stop_watch import X, masked_conv
from torch import nn

import sparselth as sl
from sparselth.ops import libraries
from sparselth.ops.kernel_choice import known
from sparselth.ops.lanes.convert import enter_lanes
from sparselth.ops.lanes.tensor import LaneTensor

pytestmark = pytest.mark.usefixtures("traveling", "one_thread")


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
    known.clear_choices()
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


@pytest.mark.skipif(not libraries.status()[0].loaded, reason="needs the compiled CPU library")
def test_measured_for_real_a_full_mask_is_dense_and_an_empty_one_sparse():
    x = torch.randn(16, 128, 8, 8)
    known.clear_choices()
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


# --- made in noise, made again ----------------------------------------------------------------


def test_a_choice_in_doubt_is_made_again(clock):
    """Beside another program the wrong one won; alone again, the right one does."""
    conv = masked_conv()
    clock.noise, clock.sparse, clock.dense = 0.5, (1.0,) * 3, (0.9,) * 3
    assert not conv.choice(X).sparse
    assert conv.choice(X).doubtful
    clock.noise, clock.dense = 0.0, (9.0,) * 3
    for _ in range(60):
        conv(X)
    assert clock.calls == 2
    choice = conv.choice(X)
    assert choice.sparse
    assert not choice.doubtful
    for _ in range(200):
        conv(X)
    assert clock.calls == 2


def test_noise_that_stays_is_measured_a_few_times_only(clock):
    conv = masked_conv()
    clock.noise, clock.sparse, clock.dense = 0.5, (1.0,) * 3, (0.9,) * 3
    for _ in range(500):
        conv(X)
    assert clock.calls == 4
    assert not conv.choice(X).doubtful


def test_a_clear_lead_is_not_in_doubt(clock):
    conv = masked_conv()
    clock.noise = 0.5
    assert conv.choice(X).sparse
    assert not conv.choice(X).doubtful
