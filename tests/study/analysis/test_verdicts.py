"""Verdicts from made-up accuracies: the winning property, and the five conditions."""

import math

import pytest
from support.made_up import LARGE, SMALL, WIDE, about, made

from sparselth.study.analysis.intervals import (
    MISSING,
    NO,
    UNCLEAR,
    YES,
    mean_of,
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


# Differences over seeds


def test_seeds_of_only_one_of_the_two_do_not_count():
    assert paired({0: 1.0, 1: 2.0, 7: 50.0}, {1: 1.0, 0: 0.5, 9: -50.0}, 0.95) == mean_of(
        [0.5, 1.0], 0.95
    )
    assert paired({0: 1.0}, {1: 1.0}, 0.95) is None
    values = {0: 90.0, 1: 90.1, 2: 89.9, 3: 0.0}
    assert won(ticket=values, reinit=about(80), dense=about(90)) == (YES, YES, YES, YES)


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
