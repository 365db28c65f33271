"""Measuring on the CPU: how long it takes, and that it leaves no trace."""

import itertools

import pytest
import torch

from sparselth.ops.kernel_choice import measure_cpu
from sparselth.ops.kernel_choice.measure_cpu import PASSES, Conversions
from sparselth.ops.plan import conv_plan


def test_a_close_race_takes_longer_than_a_clear_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure_cpu.time, "perf_counter", lambda: now[0])

    def run(seconds, log):
        def go():
            now[0] += seconds
            log.append(seconds)

        return go

    for seconds, rounds in (
        ((0.01, 1.0), 0),  # hopeless
        ((0.2, 1.0), 2),  # slow, and clear
        ((1.0, 3.0), 2),
        ((1.0, 1.5), 3),
        ((1e-9, 1e-9), 20),
        ((5e-3, 15e-3), 3),  # clear: as many as the time allows
        ((5e-3, 5.5e-3), 15),  # close
    ):
        log = []
        medians, noise = measure_cpu.raced([run(each, log) for each in seconds])
        assert medians == pytest.approx([1e3 * each for each in seconds])
        assert noise == pytest.approx(0, abs=1e-6)
        assert log == list(seconds) * (rounds + 1)  # one to warm up


def test_rounds_that_disagree_are_followed_by_more_and_told_of(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure_cpu.time, "perf_counter", lambda: now[0])

    def run(*seconds):
        times = itertools.cycle(seconds)

        def go():
            now[0] += next(times)

        return go

    # One of them is held up in every other round, as beside another program.
    medians, noise = measure_cpu.raced([run(2e-3), run(6e-3, 9e-3)])
    assert medians[0] == pytest.approx(2)
    assert 6 <= medians[1] <= 9
    assert noise > 0.1
    calm = measure_cpu.raced([run(2e-3), run(6e-3, 6.1e-3)])
    assert calm.noise < 0.02


@pytest.mark.usefixtures("traveling")
def test_measuring_leaves_no_trace():
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    mask = torch.rand(6, 4, 3, 3) < 0.5
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    layouts = (torch.contiguous_format, torch.channels_last)
    for layout in layouts:
        conv = ((2, 1), (1, 0), (1, 2), 1)
        times = measure_cpu.measure_conv((3, 4, 7, 8), weight, mask, conv_plan(mask), conv, layout)
        assert set(times.passes) == set(PASSES)
        assert all(p.sparse > 0 and p.dense > 0 and p.around > 0 for p in times.passes.values())
    flat = mask.flatten(1)
    for dtype in (torch.float32, torch.bfloat16):
        matrix = weight.flatten(1).to(dtype)
        times = measure_cpu.measure_linear(5, matrix, flat, conv_plan(flat))
        assert all(p.sparse > 0 and p.dense > 0 for p in times.passes.values())
        assert times.conversions == Conversions()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert weight.grad is None
