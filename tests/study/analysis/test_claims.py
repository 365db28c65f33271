"""The paper's claims against made-up results: each can hold, fail, or stay open."""

import pytest
from support.made_up import LARGE, SMALL, WIDE, about, made

from sparselth.study import Thresholds
from sparselth.study.analysis.claims import claims
from sparselth.study.analysis.intervals import MISSING, NO, UNCLEAR, YES
from sparselth.study.analysis.overlaps import AGAINST_THETA_0, AGAINST_THETA_T, DENSE_PAIR

MASKS = {"generators": ("imp", "admm"), "sparsities": (0.5, 0.9)}


def judged(letter, accuracies=None, overlaps=None, **settings):
    """Return the claims of a letter."""
    summary = made(accuracies or {}, overlaps, **settings)
    return [row for row in claims(summary) if row["letter"] == letter]


def verdicts(letter, *args, **settings):
    return [row["verdict"] for row in judged(letter, *args, **settings)]


@pytest.mark.parametrize(
    ("small", "large", "verdict"),
    [
        ([0.5, 0.51, 0.52], [0.2, 0.21, 0.22], YES),
        ([0.2, 0.21, 0.22], [0.5, 0.51, 0.52], NO),
        ([0.2, 0.2, 0.2], [0.2, 0.2, 0.2], NO),
        ([0.5, 0.2, 0.4], [0.2, 0.4, 0.3], UNCLEAR),
        ([0.5], [0.2], UNCLEAR),
        ([0.5, 0.5], [], MISSING),
    ],
)
def test_a_weights_keep_their_start_more_at_the_small_rate(small, large, verdict):
    overlaps = {(DENSE_PAIR, SMALL): small, (DENSE_PAIR, LARGE): large}
    assert verdicts("a", {}, overlaps) == [verdict]


@pytest.mark.parametrize(
    ("small", "large", "verdict"),
    [
        (about(88), about(90), YES),
        (about(90), about(88), NO),
        (about(88), about(88.5, WIDE), UNCLEAR),
        ([88.0], [90.0], UNCLEAR),
        (about(88), [], MISSING),
    ],
)
def test_b_dense_training_is_better_at_the_large_rate(small, large, verdict):
    assert verdicts("b", {("dense", SMALL): small, ("dense", LARGE): large}) == [verdict]


@pytest.mark.parametrize(
    ("ticket", "reinit", "at_small", "at_large"),
    [
        (about(89), about(88), YES, NO),
        (about(88.4), about(88), NO, YES),
        (about(87), about(88), NO, NO),
        (about(88, WIDE), about(88), UNCLEAR, UNCLEAR),
        ([99.0], [88.0], UNCLEAR, UNCLEAR),
        (about(88), [], MISSING, MISSING),
    ],
)
def test_c_the_ticket_wins_at_the_small_rate_and_draws_at_the_large(
    ticket, reinit, at_small, at_large
):
    same = {("ticket", rate): ticket for rate in (SMALL, LARGE)}
    same |= {("reinit", rate): reinit for rate in (SMALL, LARGE)}
    assert verdicts("c", same) == [at_small, at_large]
    assert verdicts("c", {("ticket", LARGE): ticket, ("reinit", LARGE): reinit}) == [
        MISSING,
        at_large,
    ]


def test_c_goes_by_the_gap_of_the_study():
    accuracies = {("ticket", SMALL): 89.0, ("reinit", SMALL): 88.0}
    assert verdicts("c", accuracies)[0] == YES
    assert verdicts("c", accuracies, thresholds=Thresholds(gap=1.0))[0] == NO


@pytest.mark.parametrize(
    ("one_mask", "verdict"),
    [
        (about(91), YES),
        (about(89), NO),
        (about(90, WIDE), UNCLEAR),
        ([91.0], UNCLEAR),
        ([], MISSING),
    ],
)
def test_d_finetuning_wins_on_every_mask(one_mask, verdict):
    accuracies = {("ticket", LARGE): 90.0}
    for mask in (("imp", 0.5), ("imp", 0.9), ("admm", 0.5)):
        accuracies[("finetune", LARGE, *mask)] = about(95)
    accuracies["finetune", LARGE, "admm", 0.9] = one_mask
    assert verdicts("d", accuracies, **MASKS) == [verdict]


ORDER = ("admm", "imp", "magnitude")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((about(92), about(91), about(90)), [YES, YES, YES]),
        ((about(90), about(91), about(92)), [NO, NO, NO]),
        ((about(91), about(91), about(91)), [YES, YES, YES]),
        ((about(92), about(90), about(91)), [YES, NO, YES]),
        ((about(91, WIDE), about(91), about(80)), [UNCLEAR, YES, YES]),
        (([92.0], [91.0], [90.0]), [UNCLEAR, UNCLEAR, UNCLEAR]),
    ],
)
@pytest.mark.parametrize("protocol", ["ticket", "finetune"])
def test_e_masks_of_admm_then_imp_then_magnitude(protocol, values, wanted):
    accuracies = {
        (protocol, LARGE, generator, sparsity): value
        for generator, value in zip(ORDER, values, strict=True)
        for sparsity in (0.5, 0.9)
    }
    rows = judged("e", accuracies, generators=ORDER, sparsities=(0.5, 0.9))
    assert [row["verdict"] for row in rows] == wanted
    assert all(protocol in row["statement"] for row in rows)


def test_e_compares_at_the_same_sparsities_and_is_silent_where_it_cannot():
    accuracies = {
        ("ticket", LARGE, "admm", 0.5): about(80),
        ("ticket", LARGE, "imp", 0.5): about(79),
        ("ticket", LARGE, "imp", 0.9): about(99),
    }
    assert verdicts("e", accuracies, **MASKS) == [YES]
    assert verdicts("e", {("ticket", LARGE): 90.0}, generators=("imp",)) == []


@pytest.mark.parametrize(
    ("finetune", "rewind", "ticket", "wanted"),
    [
        (about(92), about(91), about(90), [YES, YES]),
        (about(90), about(91), about(92), [NO, NO]),
        (about(90), about(91), about(90), [NO, YES]),
        (about(92, WIDE), about(91), about(90), [UNCLEAR, YES]),
        ([92.0], [91.0], [90.0], [UNCLEAR, UNCLEAR]),
        (about(92), [], about(90), [MISSING, MISSING]),
        (about(92), about(91), [], [YES, MISSING]),
    ],
)
def test_f_finetuning_then_rewinding_then_the_ticket(finetune, rewind, ticket, wanted):
    accuracies = {
        ("finetune", LARGE): finetune,
        ("rewind", LARGE): rewind,
        ("ticket", LARGE): ticket,
    }
    assert verdicts("f", accuracies, **MASKS) == wanted


@pytest.mark.parametrize(
    ("initial", "trained", "wanted"),
    [
        ([0.2036, 0.21, 0.205], [0.6397, 0.63, 0.64], [YES, YES]),
        ([0.4, 0.41, 0.4], [0.21, 0.22, 0.21], [NO, NO]),
        ([0.1, 0.11, 0.1], [0.1, 0.11, 0.1], [NO, NO]),
        ([0.2, 0.3, 0.1], [0.2, 0.9, 0.6], [UNCLEAR, UNCLEAR]),
        ([0.2], [0.6], [UNCLEAR, UNCLEAR]),
        ([], [0.6, 0.61], [MISSING, YES]),
    ],
)
def test_g_finetuning_forgets_the_start_and_keeps_the_trained_weights(initial, trained, wanted):
    overlaps = {(AGAINST_THETA_0, LARGE): initial, (AGAINST_THETA_T, LARGE): trained}
    assert verdicts("g", {}, overlaps, **MASKS) == wanted


def test_many_masks_count_by_their_mean_and_clear_ones_are_counted():
    accuracies = {("reinit", SMALL): 80.0}
    for mask, ticket in {
        ("imp", 0.5): about(83),
        ("imp", 0.9): about(84),
        ("admm", 0.5): about(81, WIDE),
        ("admm", 0.9): about(78),
    }.items():
        accuracies[("ticket", SMALL, *mask)] = ticket
    (row, _) = judged("c", accuracies, **MASKS)
    assert row["measured"].startswith("+1.50 [")
    assert row["measured"].endswith("; of 4 masks 2 clearly above 0.5, 1 clearly below -0.5")


def test_with_one_rate_there_is_no_small_one_to_compare_with():
    rows = claims(made({("ticket", LARGE): 90.0}, learning_rates=(LARGE,)))
    assert [row["letter"] for row in rows] == ["c", "d", "f", "f", "g", "g"]
    assert all(f"at {LARGE:g}" in row["statement"] for row in rows)


def test_the_lowest_and_the_highest_rate_are_the_small_and_the_large():
    accuracies = {
        ("dense", 0.2): about(92),
        ("dense", LARGE): about(50),
        ("dense", SMALL): about(90),
    }
    assert verdicts("b", accuracies, learning_rates=(LARGE, 0.2, SMALL)) == [YES]


def test_each_network_and_data_set_is_judged_by_itself():
    better = {("dense", SMALL): about(88), ("dense", LARGE): about(90)}
    better |= {("ticket", SMALL): about(90), ("reinit", SMALL): about(88)}
    summary = made(better)
    summary["config"]["data"] = ["mnist5k", "cifar10"]
    summary["cells"] += [
        {**cell, "data": "cifar10", "test_accuracy": -cell["test_accuracy"]}
        for cell in summary["cells"]
    ]
    for letter in "bc":
        rows = [row for row in claims(summary) if row["letter"] == letter and row["measured"]]
        assert [(row["data"], row["verdict"]) for row in rows] == [
            ("mnist5k", YES),
            ("cifar10", NO),
        ]


def test_a_study_without_results_has_measured_nothing():
    rows = claims(made({}))
    assert {row["letter"] for row in rows} == set("abcdfg")
    assert {(row["verdict"], row["measured"]) for row in rows} == {(MISSING, "")}


def test_controls_and_random_masks_take_no_part():
    generators = ("imp", "imp-inverted", "random")
    accuracies, overlaps = {}, {}
    for generator, ticket in (("imp", 90.0), ("imp-inverted", 50.0), ("random", 60.0)):
        for rate in (SMALL, LARGE):
            accuracies |= {("ticket", rate, generator, 0.9): about(ticket)}
            accuracies |= {("reinit", rate, generator, 0.9): about(88.0)}
        accuracies |= {("finetune", LARGE, generator, 0.9): about(91 if generator == "imp" else 20)}
        overlaps |= {(AGAINST_THETA_T, LARGE, generator, 0.9): 0.6 if generator == "imp" else 0.2}
    alone = {key: values for key, values in accuracies.items() if key[2] == "imp"}
    alone_overlaps = {key: value for key, value in overlaps.items() if key[2] == "imp"}
    for letter in "cdfg":
        assert judged(letter, accuracies, overlaps, generators=generators) == judged(
            letter, alone, alone_overlaps, generators=("imp",)
        )


@pytest.mark.parametrize(
    ("rate", "letters"), [(SMALL, ["c"]), (0.05, ["c", "d", "f", "f", "g", "g"])]
)
def test_a_single_rate_is_the_one_of_the_paper_it_is_nearer_to(rate, letters):
    accuracies = {("ticket", rate): about(90), ("reinit", rate): about(85)}
    found = claims(made(accuracies, learning_rates=(rate,)))
    assert [row["letter"] for row in found] == letters
    more_than = "by more than" in found[0]["statement"]
    assert (more_than, found[0]["verdict"]) == ((True, YES) if rate == SMALL else (False, NO))


def test_g_leaves_out_a_seed_that_lacks_a_mask():
    pair = AGAINST_THETA_T, LARGE
    overlaps = {(*pair, "imp", 0.5): [0.5, 0.5, 0.51], (*pair, "imp", 0.9): [0.5, 0.51]}
    (_, row) = judged("g", {}, overlaps, generators=("imp",), sparsities=(0.5, 0.9))
    assert row["measured"].startswith("R_0.2 - 0.2 = +0.302 [")
