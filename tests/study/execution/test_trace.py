"""R_p after every epoch: the numbers, and going on where a run was stopped."""

import json

import pytest
import torch
from torch import nn

from sparselth import SparselthError
from sparselth.nn import sparsify
from sparselth.pruning import find_masks, weight_overlap
from sparselth.study.execution.trace import OverlapTrace, read_trace
from sparselth.study.plan.percentages import PERCENTAGES
from sparselth.training import EpochRecord, History, Recipe


def make(inner=8):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.Flatten(), nn.Linear(36, inner, bias=False)
    )


def history(epochs):
    return History([EpochRecord(e, 0.1, 1.0, 50.0, 50.0, 1.0) for e in range(1, epochs + 1)])


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def step(model):
    """Change the weights, as an epoch would."""
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))


def follow(trace, model, epochs):
    """Call a trace as a training of some epochs does; return R_p by hand after each."""
    trace.train_begin(model, Recipe(epochs=epochs), history(0))
    found = []
    for epoch in range(1, epochs + 1):
        step(model)
        trace.epoch_end(model, history(epoch))
        now = {name: weights(model)[name] for name in trace.start}
        found.append(weight_overlap(trace.start, now, list(PERCENTAGES)))
    return found


def test_a_row_after_each_epoch_has_the_overlap_of_all_weights(tmp_path):
    model = make()
    path = tmp_path / "trace.json"
    by_hand = follow(OverlapTrace(path, weights(model)), model, 3)
    rows = read_trace(path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["overlaps"] for row in rows] == by_hand
    assert len({tuple(overlaps) for overlaps in by_hand}) == 3


def test_with_masks_only_what_remains_counts(tmp_path):
    model = make()
    start = weights(model)
    masks = find_masks(model, sparsity=0.5, exclude=())
    sparsify(model, masks)
    trace = OverlapTrace(tmp_path / "trace.json", start)
    trace.train_begin(model, Recipe(epochs=1), history(0))
    step(model)
    trace.epoch_end(model, history(1))
    remaining = weight_overlap(start, weights(model), list(PERCENTAGES), masks)
    assert trace.rows[0]["overlaps"] == remaining
    assert remaining != weight_overlap(start, weights(model), list(PERCENTAGES))


def test_only_the_weights_it_started_from_are_compared(tmp_path):
    model = make()
    start = {"2.weight": weights(model)["2.weight"]}
    by_hand = follow(OverlapTrace(tmp_path / "trace.json", start), model, 1)
    assert read_trace(tmp_path / "trace.json")[0]["overlaps"] == by_hand[0]


@pytest.mark.parametrize(("kept", "selecting"), [(4, (0.2, 0.3, 0.4, 0.5)), (1, ())])
def test_shares_that_select_nothing_are_none(tmp_path, kept, selecting):
    model = nn.Linear(4, 4, bias=False)
    start = weights(model)
    sparsify(model, find_masks(model, sparsity=1 - kept / 16, exclude=()))
    trace = OverlapTrace(tmp_path / "trace.json", start)
    trace.train_begin(model, Recipe(epochs=1), history(0))
    trace.epoch_end(model, history(1))
    overlaps = dict(zip(PERCENTAGES, read_trace(trace.path)[0]["overlaps"], strict=True))
    assert overlaps == {p: 1.0 if p in selecting else None for p in PERCENTAGES}


def test_it_goes_on_with_the_row_that_a_kill_left_out(tmp_path):
    model = make()
    path, start = tmp_path / "trace.json", weights(model)
    follow(OverlapTrace(path, start), model, 3)
    whole = read_trace(path)
    path.write_text(json.dumps(whole[:2]))  # the checkpoint of epoch 3 was written, the row not
    again = OverlapTrace(path, start)
    again.train_begin(model, Recipe(epochs=4), history(3))
    assert read_trace(path) == whole
    step(model)
    again.epoch_end(model, history(4))
    assert read_trace(path)[:3] == whole
    assert [row["epoch"] for row in read_trace(path)] == [1, 2, 3, 4]


def test_it_drops_rows_of_epochs_that_are_trained_again(tmp_path):
    model = make()
    path, start = tmp_path / "trace.json", weights(model)
    follow(OverlapTrace(path, start), model, 3)
    whole = read_trace(path)
    again = OverlapTrace(path, start)
    again.train_begin(model, Recipe(epochs=3), history(1))
    step(model)
    again.epoch_end(model, history(2))
    rows = read_trace(path)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0] == whole[0]
    assert rows[1] != whole[1]


def test_a_run_from_the_start_forgets_the_file(tmp_path):
    model = make()
    path, start = tmp_path / "trace.json", weights(model)
    follow(OverlapTrace(path, start), model, 3)
    follow(OverlapTrace(path, start), model, 1)
    assert [row["epoch"] for row in read_trace(path)] == [1]


def test_before_it_begins_there_is_nothing(tmp_path):
    assert read_trace(tmp_path / "trace.json") == []


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "trace.json").write_bytes(b'[{"epoch": 1, "over\xff')
    with pytest.raises(SparselthError, match=f"delete the folder {tmp_path}"):
        read_trace(tmp_path / "trace.json")
