"""How rho changes: the schedules' factors by hand, balance, and what no schedule can be."""

import pytest

import sparselth as sl
from sparselth.pruning import rho


def measured(primal, dual):
    return sl.pruning.ADMMUpdate(primal, dual, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (rho.constant(), [1, 1, 1, 1, 1, 1, 1]),
        (rho.growing(), [1.3] * 7),
        (rho.staged(2), [1, 10, 1, 10, 1, 10, 1]),
        (rho.staged(2, stages=2, factor=3), [1, 3, 1, 1, 1, 1, 1]),
        (rho.staged(1, stages=1), [1] * 7),
    ],
)
def test_rho_schedules(schedule, factors):
    assert [schedule(measured(1, 1), count) for count in range(1, 8)] == factors


def test_residual_balancing():
    schedule = rho.balanced()
    for primal, dual, factor in ((11, 1, 2), (10, 1, 1), (1, 10, 1), (1, 11, 0.5), (0, 0, 1)):
        assert schedule(measured(primal, dual), 1) == factor


@pytest.mark.parametrize(
    "make",
    [
        lambda: rho.growing(0.9),
        lambda: rho.staged(0),
        lambda: rho.staged(1, stages=0),
        lambda: rho.staged(1, factor=0.5),
        lambda: rho.balanced(ratio=1),
        lambda: rho.balanced(factor=0.5),
    ],
)
def test_impossible_schedules(make):
    with pytest.raises(ValueError, match="got"):
        make()
