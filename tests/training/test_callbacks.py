"""What happens beside a training."""

import csv
import dataclasses
import io
import json
import math
import sys

import pytest
import torch
from rich.console import Console

import sparselth as sl
from sparselth import Recipe, SparselthError
from sparselth.training import (
    Callback,
    HistoryFile,
    KeepBest,
    KeepEpoch,
    ProgressBar,
    TensorBoard,
    train,
)


class Seen(Callback):
    def __init__(self):
        self.calls = []

    def train_begin(self, model, recipe, history):
        self.calls.append(("begin", len(history)))

    def epoch_end(self, model, history):
        self.calls.append(("epoch", len(history)))
        if len(history) == 2 and ("stop",) in self.calls:
            raise InterruptedError

    def train_end(self):
        self.calls.append(("end",))


def test_callbacks_see_begin_epochs_and_end_also_of_what_fails(
    tmp_path, make_model, digits, recipe
):
    seen = Seen()
    seen.calls.append(("stop",))
    with pytest.raises(InterruptedError):
        train(make_model(), digits, recipe, checkpoint=tmp_path, callbacks=[seen])
    assert seen.calls[1:] == [("begin", 0), ("epoch", 1), ("epoch", 2), ("end",)]
    seen = Seen()
    train(make_model(), digits, recipe, checkpoint=tmp_path, callbacks=[seen])
    assert seen.calls == [("begin", 2), ("epoch", 3), ("epoch", 4), ("end",)]


def test_the_history_as_a_file(tmp_path, make_model, digits, recipe):
    recipe = dataclasses.replace(recipe, evaluate_every=3)
    files = [HistoryFile(tmp_path / name) for name in ("h.csv", "h.jsonl")]
    history = train(make_model(), digits, recipe, callbacks=files)
    rows = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["test_accuracy"] is None for row in rows] == [True, True, False, False]
    assert [math.isnan(r.test_accuracy) for r in history.records] == [True, True, False, False]
    read = list(csv.DictReader((tmp_path / "h.csv").open()))
    assert float(read[3]["train_loss"]) == history.records[3].train_loss
    assert read[0]["test_accuracy"] == ""
    with pytest.raises(SparselthError, match=r"\.csv or a \.jsonl file, got .*history\.txt"):
        HistoryFile("history.txt")


def test_the_best_epoch_is_kept(tmp_path, make_model, digits, recipe):
    best, weights = KeepBest(tmp_path), []

    class Copies(Callback):
        def epoch_end(self, model, history):
            weights.append({k: v.clone() for k, v in model.state_dict().items()})

    history = train(make_model(), digits, recipe, callbacks=[best, Copies()])
    accuracies = [record.test_accuracy for record in history.records]
    kept = KeepBest(tmp_path).load()
    assert kept["test_accuracy"] == max(accuracies)
    wanted = weights[accuracies.index(max(accuracies))]
    assert kept["model"].keys() == wanted.keys()
    assert all(torch.equal(kept["model"][k], v) for k, v in wanted.items())


def test_a_run_that_goes_on_keeps_a_best_epoch_from_before(tmp_path, make_model, digits, recipe):
    best, model = KeepBest(tmp_path), make_model()
    best.folder.save(1, {"model": {}, "masks": {}, "test_accuracy": 100.5})
    train(model, digits, recipe, callbacks=[best])
    assert best.load()["test_accuracy"] == 100.5


def test_progress_is_shown(make_model, digits, recipe):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    history = train(make_model(), digits, recipe, callbacks=[ProgressBar(console)])
    assert f"test {history.test_accuracy:.1f} %" in screen.getvalue()
    assert "4/4 epochs" in screen.getvalue()


def test_tensorboard_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SparselthError, match=r"pip install 'sparselth\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_tensorboard_gets_scalars(tmp_path, make_model, digits, recipe):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train(make_model(), digits, recipe, callbacks=[TensorBoard(tmp_path)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    values = [event.value for event in events.Scalars("train_loss")]
    assert values == pytest.approx([r.train_loss for r in history.records])


@pytest.mark.parametrize(
    "make",
    [
        lambda path: HistoryFile(path / "history.csv"),
        KeepBest,
        lambda path: KeepEpoch(path, 1),
        lambda path: TensorBoard(path),
    ],
    ids=["HistoryFile", "KeepBest", "KeepEpoch", "TensorBoard"],
)
def test_a_place_that_cannot_be_written_is_refused_before_training(make, tmp_path):
    pytest.importorskip("tensorboard")
    file = tmp_path / "file"
    file.touch()
    callback = make(file)
    model = torch.nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: pytest.fail("trained"))
    data = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(SparselthError, match="must be a folder, there or to be made, and cannot"):
        train(model, data, Recipe(epochs=1), callbacks=[callback])


def test_what_callbacks_count_is_checked(tmp_path):
    data = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(SparselthError, match=r"epoch to keep must be .*in \[0, 1\], got 2"):
        train(torch.nn.Linear(2, 2), data, Recipe(epochs=1), callbacks=[KeepEpoch(tmp_path, 2)])
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(SparselthError, match=r"a\.csv is a folder; name a file"):
        train(
            torch.nn.Linear(2, 2),
            data,
            Recipe(epochs=1),
            callbacks=[HistoryFile(tmp_path / "a.csv")],
        )
    admm = sl.ADMM(torch.nn.Linear(2, 2), 0.5, exclude=())
    with pytest.raises(SparselthError, match=r"every, which counts epochs, must be .*got 0"):
        sl.training.ADMMSchedule(admm, every=0)
    with pytest.raises(SparselthError, match=r"admm must be a sparselth\.ADMM, got str"):
        sl.training.ADMMSchedule("a")
