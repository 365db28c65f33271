"""What was measured is kept, for what is alike."""

import pytest
import torch

from sparselth.ops.kernel_choice import known, measure_cpu
from sparselth.ops.kernel_choice.measure_cpu import PASSES, PassTiming, Timings

CONV = ((1, 1), (1, 1), (1, 1), 1)


@pytest.fixture
def counted(monkeypatch):
    """Count measurements; each takes no time and says that sparse wins."""
    calls = []

    def fake(*args, **kwargs):
        calls.append(args)
        return Timings(dict.fromkeys(PASSES, PassTiming(1.0, 2.0)))

    monkeypatch.setattr(measure_cpu, "measure_conv", fake)
    monkeypatch.setattr(measure_cpu, "measure_linear", fake)
    known.clear_choices()
    yield calls
    known.clear_choices()


def conv_times(x, mask, conv=CONV):
    weight = torch.zeros(mask.shape, dtype=x.dtype)
    return known.conv_timings(x, weight, mask, None, conv)


def first(kept, shape=(8, 8, 3, 3)):
    """Return a mask that keeps the first weights."""
    return (torch.arange(torch.Size(shape).numel()) < kept).view(shape)


def test_what_is_alike_is_measured_once(counted):
    x = torch.randn(6, 8, 5, 5)
    conv_times(x, first(301))
    conv_times(torch.randn(8, 8, 5, 5), first(301))  # the batch is rounded up
    conv_times(x, first(303))  # and the density to steps
    assert len(counted) == 1
    known.clear_choices()
    conv_times(x, first(301))
    assert len(counted) == 2


@pytest.mark.usefixtures("one_thread")
def test_what_differs_is_measured_anew(counted):
    x = torch.randn(8, 8, 5, 5)
    conv_times(x, first(301))
    conv_times(torch.randn(9, 8, 5, 5), first(301))
    conv_times(torch.randn(8, 8, 6, 5), first(301))
    conv_times(x.double(), first(301))
    conv_times(x, first(150))
    conv_times(x, first(0))
    conv_times(x, first(288))  # whole filters
    conv_times(x, first(301), ((2, 2), *CONV[1:]))
    conv_times(x.contiguous(memory_format=torch.channels_last), first(301))
    assert len(counted) == 9
    torch.set_num_threads(2)
    conv_times(x, first(301))
    assert len(counted) == 10


def test_linear_is_cached_by_rows(counted):
    weight, mask = torch.zeros(8, 8), first(20, (8, 8))
    for shape in ((6, 8), (8, 8), (2, 3, 8), (9, 8)):
        known.linear_timings(torch.randn(shape), weight, mask, None)
    assert len(counted) == 2


def test_what_does_not_fit_is_not_measured(counted):
    assert conv_times(torch.randn(2, 5, 5, 5), first(9)) is None
    assert conv_times(torch.randn(2, 8, 1, 1), first(9), ((1, 1), (0, 0), (1, 1), 1)) is None
    assert (
        known.linear_timings(torch.randn(2, 3), torch.zeros(8, 8), first(9, (8, 8)), None) is None
    )
    double = torch.zeros(8, 8, dtype=torch.float64)
    assert known.linear_timings(torch.randn(2, 8), double, first(9, (8, 8)), None) is None
    assert not counted


def test_the_cache_is_bounded(counted, monkeypatch):
    monkeypatch.setattr(known, "_CACHED", 3)
    for height in range(3, 9):
        conv_times(torch.randn(1, 8, height, 3), first(9))
    assert len(known._timings) == 3
