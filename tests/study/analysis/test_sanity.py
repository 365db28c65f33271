"""Sanity checks from made-up accuracies: what is compared with what, and when a part is needed."""

import pytest
from support.made_up import LARGE, about, made

from sparselth.study.analysis.intervals import NO, YES
from sparselth.study.analysis.sanity import CHECKS, sanity

GENERATORS = ("snip", "snip-shuffled", "snip-inverted", "random")


def study(**accuracies):
    """Accuracies of tickets at the large rate, by generator."""
    values = {("ticket", LARGE, name, 0.9): about(value) for name, value in accuracies.items()}
    return values


def rows(values, generators=GENERATORS):
    summary = made(values, generators=generators, learning_rates=(LARGE,))
    return {row["check"]: row for row in sanity(summary)}


def test_each_check_is_the_ticket_minus_what_is_left():
    values = study(snip=90) | {
        ("ticket", LARGE, "snip-shuffled", 0.9): about(89.9),
        ("ticket", LARGE, "snip-inverted", 0.9): about(70),
        ("ticket", LARGE, "random", 0.9): about(85),
        ("reinit", LARGE, "snip", 0.9): about(90.1),
    }
    found = rows(values)
    assert list(found) == list(CHECKS)
    means = {check: row["mean"] for check, row in found.items()}
    assert means == {
        "shuffled": pytest.approx(0.1),
        "inverted": pytest.approx(20),
        "re-init": pytest.approx(-0.1),
        "random": pytest.approx(5),
    }
    needed = {check: row["needed"] for check, row in found.items()}
    assert needed == {"shuffled": NO, "inverted": YES, "re-init": NO, "random": YES}
    assert all(
        row["seeds"] == 3 and row["low"] <= row["mean"] <= row["high"] for row in found.values()
    )


def test_seeds_are_paired():
    """Seeds that differ by much more than the check takes away leave a narrow interval."""
    values = {
        ("ticket", LARGE, "snip", 0.9): [90, 80, 70],
        ("ticket", LARGE, "snip-shuffled", 0.9): [88.9, 79, 69.1],
    }
    row = rows(values, ("snip", "snip-shuffled"))["shuffled"]
    assert row["mean"] == pytest.approx(1.0)
    assert row["needed"] == YES


def test_what_the_study_lacks_is_left_out():
    assert rows(study(snip=90), ("snip",)) == {}
    values = study(snip=90) | {("reinit", LARGE, "snip", 0.9): about(80)}
    assert rows(values, ("snip",)) == {}  # among the differences already
    assert list(rows(values | study(random=80), ("snip", "random"))) == ["random"]
