"""The tables of a study: what is averaged, and what it is set against."""

import statistics

import pytest
from support.made_up import PLACE, history

from sparselth.study import Cell
from sparselth.study.analysis.tables import (
    accuracy_rows,
    cost_rows,
    history_rows,
    kind_label,
    mean_overlap,
    trace_rows,
)


def row(protocol, accuracy, seed=0, mask=("imp", 0.9), seconds=10.0, epochs=2, **place):
    generator, sparsity = ("", 0.0) if protocol == "dense" else mask
    return {
        **PLACE,
        "generator": generator,
        "sparsity": sparsity,
        "protocol": protocol,
        "seed": seed,
        "test_accuracy": accuracy,
        "epochs": epochs,
        "seconds": seconds,
        "seconds_per_epoch": seconds / epochs,
        **place,
    }


def test_accuracies_are_averaged_over_seeds_and_set_against_dense():
    found = accuracy_rows(
        {
            "cells": [
                row("dense", 90.0),
                row("dense", 92.0, seed=1),
                row("ticket", 88.0),
                row("ticket", 89.0, seed=1),
                row("ticket", 85.0, mask=("imp", 0.5)),
                row("masks", 10.0),
                row("round", 10.0),
                row("small-dense", 80.0, mask=("", 0.9)),
                row("ticket", 70.0, learning_rate=0.01),
            ]
        }
    )
    names = ("protocol", "sparsity", "seeds", "test_accuracy", "sd", "against_dense")
    assert [tuple(r[name] for name in names) for r in found] == [
        ("dense", 0.0, 2, 91.0, statistics.stdev([90, 92]), 0.0),
        ("ticket", 0.9, 2, 88.5, statistics.stdev([88, 89]), -2.5),
        ("ticket", 0.5, 1, 85.0, None, -6.0),
        ("small-dense", 0.9, 1, 80.0, None, -11.0),
        ("ticket", 0.9, 1, 70.0, None, None),  # no dense training at that rate
    ]


def test_costs_are_a_row_for_each_kind_of_training():
    found = cost_rows(
        {
            "cells": [
                row("dense", 90.0, seconds=10.0),
                row("dense", 90.0, seconds=14.0, seed=1),
                row("dense", 90.0, seconds=30.0, seed=2),
                row("ticket", 90.0, seconds=7.0),
                row("scratch-b", 90.0, seconds=28.0, epochs=4),
                row("scratch-b", 90.0, seconds=21.0, epochs=3, mask=("imp", 0.5)),
                row("ticket", 90.0, data="cifar10"),
            ]
        }
    )
    names = ("data", "kind", "trainings", "epochs", "seconds_per_epoch", "against_dense")
    assert [tuple(r[name] for name in names) for r in found] == [
        ("mnist5k", "dense", 3, 2, 7.0, 1.0),
        ("mnist5k", "ticket", 1, 2, 3.5, 2.0),
        ("mnist5k", "scratch-b", 2, 4, 7.0, 1.0),
        ("cifar10", "ticket", 1, 2, 5.0, None),
    ]
    assert [r["seconds"] for r in found] == [18.0, 7.0, 24.5, 10.0]
    assert found[0]["total_hours"] == pytest.approx(54 / 3600)


def test_of_nothing_there_are_no_rows():
    assert accuracy_rows({"cells": []}) == cost_rows({"cells": []}) == []
    assert history_rows({}) == trace_rows({}) == []


def test_every_epoch_keeps_its_own_learning_rate_beside_that_of_the_grid():
    cell = Cell("resnet20", "mnist5k", 0.5, 3)
    found = history_rows({cell: history([50.0, 60.0])})
    assert [(r["epoch"], r["test_accuracy"]) for r in found] == [(1, 50.0), (2, 60.0)]
    assert [(r["learning_rate"], r["epoch_learning_rate"]) for r in found] == [(0.5, 0.1)] * 2
    assert found[0]["protocol"] == "dense"


def test_a_trace_has_a_column_for_each_share():
    cell = Cell("resnet20", "mnist5k", 0.5, 3)
    trace = [{"epoch": 1, "overlaps": [None, 0.2, 0.3, 0.4, 0.5]}]
    (found,) = trace_rows({cell: trace})
    assert (found["seed"], found["epoch"]) == (3, 1)
    assert {k: v for k, v in found.items() if k.startswith("overlap_")} == {
        "overlap_0.1": None,
        "overlap_0.2": 0.2,
        "overlap_0.3": 0.3,
        "overlap_0.4": 0.4,
        "overlap_0.5": 0.5,
    }


def test_an_overlap_is_averaged_over_the_seeds_of_its_place():
    base = {"pair": "a, b", "p": 0.2, "share_of": "all", "sparsity": 0.9}
    summary = {
        "overlaps": [
            {**base, "overlap": 0.2},
            {**base, "overlap": 0.4},
            {**base, "overlap": 0.9, "p": 0.1},
            {**base, "overlap": 0.9, "share_of": "remaining"},
            {**base, "overlap": 0.9, "sparsity": 0.5},
        ]
    }
    assert mean_overlap(summary, "a, b", 0.2, "all", sparsity=0.9) == pytest.approx(0.3)
    assert mean_overlap(summary, "a, c", 0.2, "all", sparsity=0.9) is None


def test_kinds_of_training_in_words():
    kinds = ("dense", "round", "masks", "small-lr")
    assert [kind_label(kind) for kind in kinds] == [
        *("dense", "rounds of imp", "search by admm", "small rate"),
    ]
