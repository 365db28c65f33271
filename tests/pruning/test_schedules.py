"""Schedules: their formulas, and exact counts in every step."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.pruning import SCHEDULES
from sparselth.pruning.schedules import find_schedule, scheduled

FORMULAS = {
    "one-shot": lambda t, a, b: b,
    "linear": lambda t, a, b: a + t * (b - a),
    "exponential": lambda t, a, b: 1 - (1 - a) * ((1 - b) / (1 - a)) ** t,
    "cubic": lambda t, a, b: b + (a - b) * (1 - t) ** 3,
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("first", "last"), [(0.0, 0.9), (0.5, 0.98), (0.2, 0.2)])
def test_formulas(name, first, last):
    before = first
    for part in (0.1, 0.25, 0.5, 0.9, 1.0):
        share = scheduled(SCHEDULES[name], part, first, last)
        assert share == pytest.approx(FORMULAS[name](part, first, last))
        assert before - 1e-12 <= share <= last + 1e-12
        before = share
    assert scheduled(SCHEDULES[name], 1.0, first, last) == last


def test_shares_by_name_go_their_own_way():
    shares = scheduled(SCHEDULES["linear"], 0.5, {"a": 0.2}, {"a": 0.8, "b": 0.4})
    assert shares == {"a": pytest.approx(0.5), "b": pytest.approx(0.2)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_counts_of_every_step_are_exact(name, monkeypatch):
    """find_masks in steps: each leaves the schedule's share of the whole layer, rounded."""
    seen = []
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 3))

    def score(weights, context):
        left = context.masks.get("0.weight")
        seen.append(100 if left is None else int(left.sum()))
        return weights

    masks = sl.find_masks(
        model, score=score, sparsity=0.9, steps=4, schedule=name, exclude=["1.weight"]
    )
    shares = [FORMULAS[name](part, 0.0, 0.9) for part in (0.25, 0.5, 0.75)]
    assert seen == [100, *(100 - round(100 * share) for share in shares)]
    assert int(masks["0.weight"].sum()) == 10


def test_a_function_of_ones_own():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 3))
    masks = sl.find_masks(
        model,
        sparsity=0.5,
        steps=3,
        schedule=lambda part, first, last: first + part**2 * (last - first),
    )
    assert int(masks["0.weight"].sum()) == 50


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("squared", "unknown schedule 'squared'"),
        (3, "schedule must be one of one-shot"),
        (lambda part, first, last: first, "ends at the last sparsity; this one gives 0"),
        (lambda part, first, last: float("nan"), "what the schedule gives at the end"),
    ],
)
def test_bad_input(schedule, says):
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=says):
            find_schedule(schedule)
    with pytest.raises(sl.SparselthError, match=says):
        sl.find_masks(nn.Linear(4, 4), steps=2, schedule=schedule, exclude=())


def test_a_share_that_is_none_is_refused():
    with pytest.raises(sl.SparselthError, match="sparsity"):
        sl.find_masks(
            nn.Linear(4, 4),
            exclude=(),
            steps=2,
            schedule=lambda part, first, last: last if part == 1 else 2 * torch.pi,
        )


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (lambda part: part, r"a schedule is a function of \(part, first, last\)"),
        (lambda part, first, last: last if part == 1 else 0.95, r"prunes 0\.95 after 0\.5 .* 0\.9"),
    ],
)
def test_another_arity_and_more_than_the_last_are_refused(schedule, says):
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    with pytest.raises(sl.SparselthError, match=says):
        sl.find_masks(model, steps=2, schedule=schedule)
