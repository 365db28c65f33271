"""Sparse or dense: what follows from which timings, what is measured, and what is cached."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import sparselth as sl
from sparselth.ops.kernel_choice import decide
from sparselth.ops.kernel_choice.measure_cpu import PASSES, Conversions, PassTiming, Timings

CONV = ((1, 1), (1, 1), (1, 1), 1)


def timings(sparse, dense, around=0.0, convert=0.0):
    """Return timings with the same numbers for each pass, or one number per pass."""
    each = [value if isinstance(value, tuple) else (value,) * 3 for value in (sparse, dense)]
    passes = {name: PassTiming(s, d, around) for name, s, d in zip(PASSES, *each, strict=True)}
    return Timings(passes, Conversions(*[convert] * 4))


# --- decisions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sparse", "dense", "sparse_wins"),
    [(1.0, 2.0, True), (2.0, 1.0, False), (0.98, 1.0, False), (0.96, 1.0, True), (1.0, 1.0, False)],
)
def test_sparse_has_to_win_by_the_margin(sparse, dense, sparse_wins):
    made = decide.decide(timings(sparse, dense, around=9.0), PASSES, in_lanes=True)
    assert made.sparse is sparse_wins
    assert made.by == "measured"
    assert made.sparse_ms == pytest.approx(3 * sparse)
    assert made.dense_ms == pytest.approx(3 * dense)


@pytest.mark.parametrize(
    ("wanted", "plain", "arriving"),
    [
        (PASSES, 4.0, 2.0),
        (("forward",), 2.0, 1.0),
        (("forward", "grad_weight"), 3.0, 1.0),
    ],
)
def test_conversions_are_charged_to_who_crosses_the_border(wanted, plain, arriving):
    times = timings(5.0, 50.0, around=100.0, convert=1.0)
    made = decide.decide(times, wanted, in_lanes=False)
    assert made.sparse_ms == 5.0 * len(wanted) + plain
    assert made.dense_ms == 50.0 * len(wanted)
    made = decide.decide(times, wanted, in_lanes=True)
    assert made.sparse_ms == 5.0 * len(wanted)
    assert made.dense_ms == 50.0 * len(wanted) + arriving


@pytest.mark.parametrize(
    ("mode", "host", "sparse_wins"),
    [
        ("measured", (3.0, 1.0), False),  # the device waits for the host
        ("measured", (0.9, 1.0), True),
        ("measured", (3.0, 4.0), True),
        ("graphed", (3.0, 1.0), True),  # nobody waits for it
    ],
)
def test_the_host_counts_where_it_is_the_slower_one(mode, host, sparse_wins):
    times = timings(1.0, 2.0)
    times = replace(times, host={name: PassTiming(*host) for name in PASSES})
    with sl.use_choice(mode):
        made = decide.decide(times, PASSES, in_lanes=True)
    assert made.sparse is sparse_wins
    slower = (max(1.0, host[0]), max(2.0, host[1])) if mode == "measured" else (1.0, 2.0)
    assert (made.sparse_ms, made.dense_ms) == pytest.approx([3 * ms for ms in slower])


def test_a_dense_pass_of_a_sparse_layer_is_launched_like_one():
    times = timings((1.0, 1.0, 9.0), (9.0, 9.0, 2.0))
    host = {name: PassTiming(4.0, 1.0) for name in PASSES}
    with sl.use_choice("measured"):
        made = decide.decide(replace(times, host=host), PASSES, in_lanes=True)
    assert made.dense_passes == {"grad_weight"}
    assert made.sparse_ms == pytest.approx(4.0 + 4.0 + 1.0)


def test_a_lone_sparse_layer_that_conversions_eat_up_is_dense():
    times = timings(9.0, 10.0, around=2.0, convert=1.0)
    assert not decide.decide(times, PASSES, in_lanes=False).sparse
    assert decide.decide(times, PASSES, in_lanes=True).sparse


def test_a_pass_goes_dense_where_it_wins_conversions_included():
    times = timings((1.0, 1.0, 9.0), (5.0, 5.0, 5.0), around=2.0)
    made = decide.decide(times, PASSES, in_lanes=True)
    assert made.dense_passes == {"grad_weight"}
    assert [made.serves(name) for name in PASSES] == ["sparse", "sparse", "dense"]
    assert made.sparse_ms == 1 + 1 + 7
    times = timings((1.0, 1.0, 6.5), (5.0, 5.0, 5.0), around=2.0)
    assert decide.decide(times, PASSES, in_lanes=True).dense_passes == frozenset()
    # In a dense layer everything is dense.
    assert decide.decide(timings(9.0, 5.0), PASSES, True).dense_passes == frozenset()
    assert decide.decide(timings(9.0, 5.0), PASSES, True).serves("forward") == "dense"


def test_the_passes_that_are_wanted():
    x, weight = torch.ones(2), torch.ones(2, requires_grad=True)
    assert decide.wanted_passes(x, weight) == ("forward", "grad_weight")
    assert decide.wanted_passes(weight, x) == ("forward", "grad_input")
    assert decide.wanted_passes(weight, weight) == PASSES
    with torch.no_grad():
        assert decide.wanted_passes(weight, weight) == ("forward",)


# --- modes ------------------------------------------------------------------------------------


def test_the_mode_nests_and_is_restored():
    assert decide.mode() == "fixed"  # as tests/conftest.py sets it
    with sl.use_choice("measured"):
        with pytest.raises(RuntimeError), sl.use_choice("fixed"):
            raise RuntimeError
        assert decide.mode() == "measured"
    assert decide.mode() == "fixed"
    with pytest.raises(
        ValueError, match="unknown choice 'fastest'; known: fixed, graphed, measured"
    ):
        sl.use_choice("fastest")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "measured"),
        ("fixed", "fixed"),
        ("fast", "variable SPARSELTH_CHOICE holds 'fast'; known: measured, graphed, fixed"),
        ("fixed,measured", "SPARSELTH_CHOICE holds 'fixed,measured'"),
    ],
)
def test_the_environment_sets_the_mode(value, says, monkeypatch):
    monkeypatch.setenv("SPARSELTH_CHOICE", value)
    code = "from sparselth.ops.kernel_choice import decide; print(decide.mode())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert says in (done.stdout or done.stderr)


class Odd(torch.Tensor):
    pass


@pytest.mark.usefixtures("traveling")
def test_what_is_never_measured():
    x = torch.randn(2, 3, 5, 5)
    assert not decide.measures("masked_conv2d", x)
    with sl.use_choice("measured"):
        assert decide.measures("masked_conv2d", x)
        assert decide.measures("masked_linear", x)
        for op in ("masked_conv2d", "masked_linear"):
            assert decide.measures(op, x.bfloat16())
            assert decide.measures(op, x.half())
            for other in (x.to("meta"), x[:0], x.as_subclass(Odd)):
                assert not decide.measures(op, other)
        assert not decide.measures("masked_conv2d", x[0])
        with sl.use_backend("reference"):
            assert not decide.measures("masked_conv2d", x)
        torch.use_deterministic_algorithms(True)
        try:
            assert not decide.measures("masked_conv2d", x)
        finally:
            torch.use_deterministic_algorithms(False)


def test_nothing_is_measured_without_kernels(monkeypatch):
    monkeypatch.setattr(decide.libraries, "has_kernel", lambda op, backend: False)
    with sl.use_choice("measured"):
        assert not decide.measures("masked_conv2d", torch.randn(2, 3, 5, 5))
        assert not decide.measures("masked_linear", torch.randn(2, 3))
