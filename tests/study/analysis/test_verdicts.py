"""Verdicts from made-up accuracies: the winning property, five conditions, and their intervals."""

import math
import statistics

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel
from support.made_up import LARGE, SMALL, WIDE, about, made

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
from sparselth.study.analysis.results import Results
from sparselth.study.analysis.verdicts import COMPARED, conditions, differences, winning

# The winning property


def won(ticket=90.0, reinit=88.0, dense=90.0, **settings):
    summary = made(
        {("ticket", LARGE): ticket, ("reinit", LARGE): reinit, ("dense", LARGE): dense},
        **{"learning_rates": (LARGE,)} | settings,
    )
    (row,) = winning(summary)
    return tuple(row[part] for part in ("nontrivial", "similar", "gap", "winning"))


def test_a_ticket_as_good_as_dense_and_better_than_chance_wins():
    assert won(ticket=about(90)) == (YES, YES, YES, YES)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"sparsities": (0.5,)}, 0),
        ({"ticket": 89.3, "reinit": 87.0}, 1),
        ({"reinit": 89.7}, 2),
        ({"reinit": about(91)}, 2),
    ],
)
def test_each_part_alone_loses(change, part):
    wanted = [YES, YES, YES, NO]
    wanted[part] = NO
    assert won(**change) == tuple(wanted)


def test_one_seed_is_never_enough():
    assert won([90.0], [50.0], [90.0]) == (YES, UNCLEAR, UNCLEAR, UNCLEAR)
    assert won([10.0], [90.0], [90.0]) == (YES, UNCLEAR, UNCLEAR, UNCLEAR)


def test_wide_spread_is_unclear_and_a_clear_no_decides_beside_it():
    assert won(ticket=about(90, WIDE)) == (YES, UNCLEAR, UNCLEAR, UNCLEAR)
    assert won(ticket=about(90, WIDE), reinit=about(95, WIDE)) == (YES, UNCLEAR, NO, NO)


def test_what_was_not_trained_was_not_measured():
    assert won(reinit=[]) == (YES, YES, MISSING, MISSING)
    assert won(dense=[]) == (YES, MISSING, YES, MISSING)
    assert won(ticket=[]) == (YES, MISSING, MISSING, MISSING)


@pytest.mark.parametrize(
    ("data", "drop", "verdict"),
    [
        ("mnist5k", 0.4, YES),
        ("mnist5k", 0.5, YES),
        ("mnist5k", 0.6, NO),
        ("cifar10", 0.9, NO),
        ("cifar100", 0.9, YES),
        ("cifar100", 1.1, NO),
        ("tiny-imagenet", 0.9, YES),
        ("imagefolder", 1.4, YES),
        ("imagefolder", 1.6, NO),
    ],
)
def test_how_much_is_similar_goes_by_the_data_set(data, drop, verdict):
    assert won(ticket=90.0 - drop, data=(data,))[1] == verdict


def test_thresholds_are_those_of_the_study():
    summary = made({("ticket", LARGE): 90.0, ("reinit", LARGE): 89.0, ("dense", LARGE): 91.0})
    for gap, similar, sparsity in ((0.9, 1.0, 0.9), (1.0, 0.9, 0.95)):
        changed = {"gap": gap, "similar": similar, "sparsity": sparsity}
        summary["config"]["thresholds"] |= changed
        row = winning(summary)[1]
        verdict = YES if gap == 0.9 else NO
        assert [row[k] for k in ("gap", "similar", "nontrivial", "winning")] == [verdict] * 4


def test_a_row_for_each_mask_and_learning_rate():
    settings = {"generators": ("imp", "imp-shuffled"), "sparsities": (0.5, 0.9)}
    summary = made({("ticket", LARGE, "imp", 0.9): 90.0, ("reinit", LARGE, "imp", 0.9): 80.0})
    summary["config"] |= {k: list(v) for k, v in settings.items()}
    rows = winning(summary)
    assert len(rows) == 8
    measured = [row for row in rows if row["gap"] != MISSING]
    assert [(r["generator"], r["sparsity"], r["learning_rate"]) for r in measured] == [
        ("imp", 0.9, LARGE)
    ]


# The five conditions

JACKPOT = {
    ("dense", SMALL): about(88),
    ("dense", LARGE): about(90),
    ("ticket", SMALL): about(89),
    ("ticket", LARGE): about(90),
    ("reinit", SMALL): about(87),
    ("reinit", LARGE): about(88),
    ("small-dense", SMALL): about(86),
    ("small-dense", LARGE): about(85),
}
SECONDARY = {**JACKPOT, ("ticket", LARGE): about(88), ("reinit", LARGE): about(87)}


def judged(accuracies, **settings):
    (row,) = conditions(made(accuracies, **settings))
    return "".join(row[f"condition_{c}"][0] for c in "12345"), row["prize"]


def test_all_five_are_a_jackpot_and_four_a_secondary_prize():
    assert judged(JACKPOT) == ("yyyyy", "Jackpot winning ticket")
    assert judged(SECONDARY) == ("yyyyn", "secondary prize ticket")


@pytest.mark.parametrize(
    ("change", "settings", "verdicts"),
    [
        ({}, {"sparsities": (0.5,)}, "nyyyy"),
        ({}, {"late": 0.6}, "nyyyy"),
        ({("small-dense", SMALL): about(89.8)}, {}, "ynyyy"),
        ({("reinit", SMALL): about(89.8)}, {}, "yynyy"),  # above it at its own rate, not at any
        ({("dense", SMALL): about(92), ("dense", LARGE): about(91)}, {}, "yyynn"),
    ],
)
def test_each_of_the_first_four_alone_takes_the_prize(change, settings, verdicts):
    assert judged({**JACKPOT, **change}, **settings) == (verdicts, "none")


@pytest.mark.parametrize(
    ("protocol", "verdicts"),
    [("small-dense", "ynyyy"), ("reinit", "yynyy"), ("dense", "nyynn"), ("ticket", "ynnnn")],
)
def test_a_missing_protocol_is_not_measured(protocol, verdicts):
    accuracies = {key: values for key, values in JACKPOT.items() if key[0] != protocol}
    (row,) = conditions(made(accuracies))
    wanted = {"y": YES, "n": MISSING}
    assert [row[f"condition_{c}"] for c in "12345"] == [wanted[letter] for letter in verdicts]
    assert row["prize"] == MISSING


def test_one_seed_is_no_prize_and_no_loss():
    (row,) = conditions(made({key: values[:1] for key, values in JACKPOT.items()}))
    assert [row[f"condition_{c}"] for c in "12345"] == [UNCLEAR] * 5
    assert row["prize"] == UNCLEAR


def test_an_unclear_fifth_leaves_at_least_the_secondary_prize():
    dense = {**SECONDARY, ("dense", LARGE): about(89, WIDE)}
    verdicts, prize = judged({**dense, ("dense", SMALL): about(88)}, late=-1.0)
    assert (verdicts, prize) == ("yyyyn", "at least a secondary prize ticket")
    (row,) = conditions(made(dense))
    assert row["condition_5"] == UNCLEAR


def test_conditions_4_and_5_differ_in_the_dense_network_they_look_at():
    # At the small rate the ticket is as good as dense there, but not as dense at its best.
    summary = made({("dense", SMALL): 88, ("dense", LARGE): 90, ("ticket", SMALL): 88})
    (row,) = conditions(summary)
    assert (row["condition_4"], row["condition_5"]) == (YES, MISSING)
    summary = made({**SECONDARY, ("ticket", LARGE): 60.0})
    (row,) = conditions(summary)
    assert (row["condition_4"], row["condition_5"]) == (YES, NO)


def test_training_is_sufficient_unless_the_best_rate_still_improves():
    assert Results(made(JACKPOT, late=0.4)).settled({"model": "resnet20", "data": "mnist5k"}) == YES
    rising = made(JACKPOT, late=0.0)
    for cell in rising["cells"]:
        if cell["learning_rate"] == SMALL:
            cell["late_gain"] = 5.0
    assert conditions(rising)[0]["condition_1"] == YES
    for cell in rising["cells"]:
        cell["late_gain"] = 5.0 * cell["seed"]
    assert conditions(rising)[0]["condition_1"] == UNCLEAR


# Differences and their intervals

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


def test_seeds_of_only_one_of_the_two_do_not_count():
    assert paired({0: 1.0, 1: 2.0, 7: 50.0}, {1: 1.0, 0: 0.5, 9: -50.0}, 0.95) == mean_of(
        [0.5, 1.0], 0.95
    )
    assert paired({0: 1.0}, {1: 1.0}, 0.95) is None
    values = {0: 90.0, 1: 90.1, 2: 89.9, 3: 0.0}
    assert won(ticket=values, reinit=about(80), dense=about(90)) == (YES, YES, YES, YES)


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


def test_differences_are_listed_where_both_were_trained():
    summary = made({("ticket", LARGE): about(90), ("dense", LARGE): [91.0], ("rewind", SMALL): 80})
    rows = differences(summary)
    assert [(r["first"], r["second"], r["learning_rate"]) for r in rows] == [
        ("ticket", "dense", LARGE)
    ]
    assert (rows[0]["mean"], rows[0]["seeds"]) == (-1.0, 1)
    assert rows[0]["low"] is rows[0]["high"] is None
    both = {(protocol, LARGE): 90.0 for pair in COMPARED for protocol in pair}
    assert [(r["first"], r["second"]) for r in differences(made(both))] == list(COMPARED)
    assert not any(math.isnan(r["low"]) for r in differences(made(both)))


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
