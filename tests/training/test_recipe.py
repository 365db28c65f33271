"""The recipe: the paper's schedule, and numbers that no training can have."""

import pytest

from sparselth import SparselthError
from sparselth.training import Recipe


def test_the_schedule_is_that_of_the_paper():
    rates = [Recipe().learning_rate_at(epoch) for epoch in range(150)]
    assert rates[:80] == [0.1] * 80
    assert rates[80:120] == pytest.approx([0.01] * 40)
    assert rates[120:] == pytest.approx([0.001] * 30)


def test_the_schedule_scales_with_the_length():
    rates = [Recipe(epochs=15, learning_rate=1.0).learning_rate_at(epoch) for epoch in range(15)]
    assert rates == pytest.approx([1.0] * 8 + [0.1] * 4 + [0.01] * 3)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"milestones": (80, 120)},
        {"choice": "fastest"},
    ],
)
def test_bad_numbers_are_named(change):
    with pytest.raises(SparselthError, match=next(iter(change))):
        Recipe(**change)
