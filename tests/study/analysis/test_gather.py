"""Parts of a summary that follow from plain values: rows of cells, masks and tables."""

import statistics
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparselth
from sparselth import SparselthError
from sparselth.pruning import erk_sparsities, find_masks
from sparselth.study import Cell, StudyConfig
from sparselth.study.analysis.gather import (
    _cell_row,
    _check_terms,
    _over_seeds,
    _small_dense,
    _unreached,
)
from sparselth.study.analysis.overlaps import AGAINST_THETA_T, DENSE_PAIR, overlap_rows
from sparselth.study.analysis.tables import (
    accuracy_rows,
    cost_rows,
    history_rows,
    kind_label,
    mean_overlap,
    trace_rows,
)
from sparselth.study.execution.compute import Work
from sparselth.study.execution.cost import parameters
from sparselth.study.plan.cells import cells
from sparselth.study.plan.percentages import PERCENTAGES
from sparselth.training import EpochRecord, History

PLACE = {"model": "resnet20", "data": "mnist5k", "learning_rate": 0.1}


def ones(*sizes):
    return {f"layer{i}": torch.ones(size, dtype=torch.bool) for i, size in enumerate(sizes)}


# Layers too small for their sparsity


def test_a_layer_of_too_few_weights_is_named_with_what_it_reaches():
    masks = ones((2, 2), (5, 4))
    assert _unreached("uniform", 0.9, masks) == [
        {"layer": "layer0", "weights": 4, "asked": 0.9, "reached": 0.75}
    ]
    assert _unreached("uniform", 0.5, masks) == []
    assert [row["reached"] for row in _unreached("uniform", 0.99, masks)] == [0.75, 0.95]


def test_with_erk_each_layer_is_asked_for_its_own():
    masks = ones((2, 2), (50, 40))
    assert _unreached("uniform", 0.9, masks) != []
    assert _unreached("erk", 0.9, masks) == []  # the small one stays denser
    masks = ones((1, 9), (3, 3))
    asked = erk_sparsities(masks, 0.95)
    assert asked["layer0"] < asked["layer1"]
    assert _unreached("erk", 0.95, masks) == [
        {"layer": "layer1", "weights": 9, "asked": asked["layer1"], "reached": 1 - 1 / 9}
    ]


def test_over_all_layers_nothing_is_asked_of_one():
    assert _unreached("global", 0.99, ones((2, 2))) == []


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=4),
    st.sampled_from([0.5, 0.75, 0.9, 0.95, 0.99]),
    st.sampled_from(["uniform", "erk"]),
)
def test_those_are_the_layers_that_pruning_warns_about(sizes, sparsity, allocation):
    model = nn.Sequential(*(nn.Linear(i, o, bias=False) for o, i in sizes))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks = find_masks(model, sparsity=sparsity, allocation=allocation, exclude=())
    said = " ".join(str(warning.message) for warning in caught)
    rows = _unreached(allocation, sparsity, masks)
    assert {row["layer"] for row in rows} == {name for name in masks if f"{name} (" in said}
    for row in rows:
        mask = masks[row["layer"]]
        assert int(mask.sum()) == 1
        assert row["reached"] == 1 - int(mask.sum()) / mask.numel()


# Cells


def history(accuracies, seconds=1.0):
    return History(
        [EpochRecord(i, 0.1, 1.0, 40.0 + i, a, seconds) for i, a in enumerate(accuracies, 1)]
    )


@pytest.mark.parametrize(
    ("accuracies", "gain"),
    [
        ([50, 60, 70, 80, 81], 1),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 95], 15),  # two of ten
        ([*range(50, 59), 58], 1),
        ([50, 70], 20),  # of a short training the last epoch
        ([50, 60, 70, 85], 15),
        ([50], None),  # nothing was before
    ],
)
def test_the_late_gain_is_that_of_the_last_fifth(accuracies, gain):
    row = _cell_row(Cell("resnet20", "mnist5k", 0.1, 0), history(accuracies))
    assert row["late_gain"] == gain


def test_the_row_of_a_cell():
    cell = Cell("resnet20", "mnist5k", 0.1, 3, "imp", 0.9, "ticket")
    row = _cell_row(cell, history([50.0, 90.0, 80.0], seconds=2.0))
    assert row == {
        **PLACE,
        "generator": "imp",
        "sparsity": 0.9,
        "seed": 3,
        "protocol": "ticket",
        "epochs": 3,
        "test_accuracy": 80.0,
        "train_accuracy": 43.0,
        "late_gain": -10.0,  # not the best
        "seconds": 6.0,
        "seconds_per_epoch": 2.0,
    }
    assert _cell_row(cell, History()) is None


# Small dense networks


def test_a_small_dense_network_is_counted_beside_what_a_mask_leaves(tmp_path):
    settings = {"generators": ["magnitude"], "sparsities": [0.9], "protocols": ["small-dense"]}
    config = StudyConfig().changed({**settings, "train_limit": 8, "test_limit": 8})
    work = Work(config, tmp_path, torch.device("cpu"))
    done = [cell for cell in cells(config) if cell.trained]
    (row,) = _small_dense(work, done)
    whole = sparselth.models.build("resnet20", 10, 1)
    kept = find_masks(whole, sparsity=0.9)
    pruned = sum(int((~mask).sum()) for mask in kept.values())
    assert row["masked_parameters"] == pytest.approx(parameters(whole) - pruned, abs=len(kept))
    assert row["parameters"] == pytest.approx(row["masked_parameters"], rel=0.05)
    assert row["parameters"] == parameters(work.small_dense(done[-1])[0])


# Terms


def test_a_schedule_that_was_not_kept_is_an_error_in_words(tmp_path):
    config = StudyConfig(generators=("magnitude",), epochs=2, rewind_epoch=1)
    work = Work(config, tmp_path, torch.device("cpu"))
    done = [cell for cell in cells(config) if cell.protocol == "ticket"]
    rate = done[0].learning_rate
    kept = [config.recipe(rate, 0).learning_rate_at(epoch) for epoch in range(2)]
    for rates, fine in ((kept, True), ([rate, 7.0], False), ([rate], False)):
        records = [EpochRecord(i, r, 1.0, 50.0, 50.0, 1.0) for i, r in enumerate(rates)]
        if fine:
            _check_terms(work, done[:1], {done[0]: History(records)})
            continue
        with pytest.raises(SparselthError, match="not the schedule of the study; delete"):
            _check_terms(work, done[:1], {done[0]: History(records)})


# Overlaps of sparse with dense networks


@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.8])
def test_only_weights_that_are_there_are_compared_with_a_dense_network(allocation, sparsity):
    torch.manual_seed(0)
    model = sparselth.models.build("resnet20", 10, 1, 0.25)
    with torch.no_grad():  # so that layers differ under a global threshold, too
        for i, parameter in enumerate(model.parameters()):
            parameter.mul_(1 + 0.02 * i)
    masks = find_masks(model, sparsity=sparsity, allocation=allocation)
    dense = {name: model.get_parameter(name).detach() for name in masks}
    networks = {"theta_T": dense, "(theta_T*m)_T": {n: w * masks[n] for n, w in dense.items()}}
    cell = Cell("resnet20", "mnist5k", 0.1, 0)
    found = list(overlap_rows(cell, networks, (AGAINST_THETA_T,), kept=masks))
    assert all(row["overlap"] == 1.0 for row, _ in found)  # magnitude masks keep the largest
    assert all(layer["overlap"] == 1.0 for _, layers in found for layer in layers)
    if allocation == "uniform":
        assert [row["p"] for row, _ in found] == [p for p in PERCENTAGES if p < 1 - sparsity - 1e-9]


def test_each_layer_has_its_own_spread_by_chance():
    weights = {"a": torch.randn(40, 10), "b": torch.randn(10, 10)}
    masks = {"a": torch.ones(40, 10, dtype=torch.bool), "b": torch.eye(10, dtype=torch.bool)}
    networks = {"theta_0": weights, "theta_T": weights}
    cell = Cell("resnet20", "mnist5k", 0.1, 0)
    for kept, sizes in ((None, (400, 100)), (masks, (400, 10))):
        for row, layers in overlap_rows(cell, networks, (DENSE_PAIR,), kept):
            p = row["p"]
            assert [layer["chance_sd"] for layer in layers] == pytest.approx(
                [(1 - p) / size**0.5 for size in sizes]
            )
            assert row["chance_sd"] == pytest.approx((1 - p) / sum(sizes) ** 0.5)


def test_seeds_are_averaged():
    rows = [{"layer": "a", "p": p, "seed": s, "overlap": p + s} for p in (0.1, 0.2) for s in (0, 1)]
    rows.append({"layer": "b", "p": 0.2, "seed": 0, "overlap": 0.4})
    assert _over_seeds(rows, "overlap") == [
        {"layer": "a", "p": 0.1, "overlap": pytest.approx(0.6)},
        {"layer": "a", "p": 0.2, "overlap": pytest.approx(0.7)},
        {"layer": "b", "p": 0.2, "overlap": 0.4},
    ]


# Tables


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
