"""Differences over seeds: their intervals are those of the t test, and what follows from them."""

import statistics

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel
from support.made_up import WIDE, about

from sparselth.study.analysis.intervals import (
    MISSING,
    NO,
    UNCLEAR,
    YES,
    all_of,
    any_of,
    mean_of,
    opposite,
    paired,
)

numbers = st.floats(-100, 100).map(lambda x: round(x, 3))


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8), st.floats(0.5, 0.999))
def test_intervals_are_those_of_the_paired_t_test(pairs, confidence):
    first, second = zip(*pairs, strict=True)
    found = paired(dict(enumerate(first)), dict(enumerate(second)), confidence)
    assert found.mean == pytest.approx(statistics.fmean(first) - statistics.fmean(second), abs=1e-9)
    assert found.seeds == len(pairs)
    if len({round(a - b, 3) for a, b in pairs}) > 1:
        interval = ttest_rel(first, second).confidence_interval(confidence)
        assert (found.low, found.high) == pytest.approx(tuple(interval), abs=1e-6)


def test_the_mean_of_independent_values_has_the_one_sample_interval():
    values = [1.0, 2.5, 2.0, 4.0]
    interval = ttest_1samp(values, 0).confidence_interval(0.9)
    found = mean_of(values, 0.9)
    assert (found.low, found.high) == pytest.approx(tuple(interval))
    assert mean_of([], 0.9) is None


def test_what_a_seed_does_to_both_cancels():
    luck = {0: -9.0, 1: 0.0, 2: 12.0}
    first = {seed: 91 + part for seed, part in luck.items()}
    second = {seed: 90 + part + 0.01 * seed for seed, part in luck.items()}
    found = paired(first, second, 0.95)
    assert found.above(0.5) == YES
    unpaired = dict(zip(second, reversed(second.values()), strict=True))
    assert paired(first, unpaired, 0.95).above(0.5) == UNCLEAR


@given(st.lists(numbers, min_size=1, max_size=6), numbers)
@example([1.0], 0.0)
@example([0.5, 0.5], 0.5)
def test_a_threshold_is_passed_missed_or_left_open(values, threshold):
    found = mean_of(values, 0.95)
    if len(values) == 1:
        wanted = UNCLEAR, UNCLEAR
    else:
        wanted = (
            YES if found.low > threshold else NO if found.high <= threshold else UNCLEAR,
            YES if found.low >= threshold else NO if found.high < threshold else UNCLEAR,
        )
    assert (found.above(threshold), found.at_least(threshold)) == wanted


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (about(0), YES),
        (about(3), NO),
        (about(-3), NO),
        (about(0, WIDE), UNCLEAR),
        (about(1.0), UNCLEAR),
        ([1.0, 1.0, 1.0], YES),
        ([-1.0, -1.0, -1.0], YES),
        ([0.0, 0.0], UNCLEAR),  # two that agree show no spread
        ([0.0], UNCLEAR),
    ],
)
def test_within_a_threshold_of_zero(values, verdict):
    assert mean_of(values, 0.95).within(1.0) == verdict


@pytest.mark.parametrize(
    ("first", "second", "both", "either"),
    [
        (YES, YES, YES, YES),
        (YES, NO, NO, YES),
        (YES, UNCLEAR, UNCLEAR, YES),
        (YES, MISSING, MISSING, YES),
        (NO, NO, NO, NO),
        (NO, UNCLEAR, NO, UNCLEAR),
        (NO, MISSING, NO, MISSING),
        (UNCLEAR, UNCLEAR, UNCLEAR, UNCLEAR),
        (UNCLEAR, MISSING, MISSING, MISSING),
        (MISSING, MISSING, MISSING, MISSING),
    ],
)
def test_and_and_or_of_verdicts(first, second, both, either):
    for pair in ([first, second], [second, first]):
        assert (all_of(pair), any_of(iter(pair))) == (both, either)
        # De Morgan
        assert opposite(any_of(map(opposite, pair))) == both


def test_of_no_verdicts_nothing_is_known():
    assert all_of([]) == any_of([]) == MISSING


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0], "+1.00 (one seed)"),
        ([1.0, 1.0], "+1.00 (two seeds that agree)"),
        ([1.0, 1.0, 1.0], "+1.00 [+1.00, +1.00]"),
    ],
)
def test_a_difference_in_words(values, text):
    assert mean_of(values, 0.95).text() == text
