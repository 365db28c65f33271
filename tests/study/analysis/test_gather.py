"""Parts of a summary that follow from plain values: layers, cells, small networks, schedules."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.made_up import PLACE, history
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
from sparselth.study.execution.compute import Work
from sparselth.study.execution.cost import parameters
from sparselth.study.plan.cells import cells
from sparselth.training import EpochRecord, History


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


# Overlaps


def test_seeds_are_averaged():
    rows = [{"layer": "a", "p": p, "seed": s, "overlap": p + s} for p in (0.1, 0.2) for s in (0, 1)]
    rows.append({"layer": "b", "p": 0.2, "seed": 0, "overlap": 0.4})
    assert _over_seeds(rows, "overlap") == [
        {"layer": "a", "p": 0.1, "overlap": pytest.approx(0.6)},
        {"layer": "a", "p": 0.2, "overlap": pytest.approx(0.7)},
        {"layer": "b", "p": 0.2, "overlap": 0.4},
    ]
