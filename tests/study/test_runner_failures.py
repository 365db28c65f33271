"""A part that fails is told, takes what needs it with it, and leaves the rest alone."""

import csv
import dataclasses
import json
import shutil

import pytest

from sparselth import SparselthError, study
from sparselth.study.execution.progress import Progress

BRANCH = "checkpoints/resnet20/mnist5k/lr0.05/seed0"


@pytest.fixture(scope="module")
def config(tiny):
    return dataclasses.replace(
        tiny,
        learning_rates=(0.05, 1e30),
        generators=("magnitude",),
        sparsities=(0.9,),
        protocols=("ticket", "finetune"),
    )


class Notes(Progress):
    def __init__(self):
        super().__init__()
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def notes():
    return Notes()


@pytest.fixture(scope="module")
def diverged(config, notes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("diverged") / "run"
    return folder, study.run(config, folder, device="cpu", progress=notes)


@pytest.fixture
def copied(diverged, tmp_path):
    """A copy of the run, of which something may break."""
    folder = tmp_path / "run"
    shutil.copytree(diverged[0], folder)
    return folder


def again(config, folder, report=False):
    with pytest.MonkeyPatch.context() as patch:
        if not report:  # which takes longer than such a study
            patch.setattr("sparselth.study.runner.write_report", lambda *_: None)
        return study.run(config, folder, device="cpu")


def labels(summary):
    return [failure["label"].split(", ", 1)[1] for failure in summary["failures"]]


def of_the_good_rate(summary):
    return [cell for cell in summary["cells"] if cell["learning_rate"] == 0.05]


def damage(folder, name, seed=0):
    """Cut every checkpoint of a cell short; return how many there were."""
    branch = (folder / BRANCH).with_name(f"seed{seed}")
    files = list((branch / name).glob("epoch-*.safetensors"))
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    return len(files)


def test_the_rest_completes(diverged):
    _, summary = diverged
    assert [(c["learning_rate"], c["protocol"]) for c in summary["cells"]] == [
        (0.05, "dense"),
        (0.05, "ticket"),
        (0.05, "finetune"),
    ]
    assert {row["learning_rate"] for row in summary["masks"] + summary["overlaps"]} == {0.05}
    assert len(summary["timing"]) == 1


def test_the_failure_is_told_with_all_that_was_not_run(diverged, notes):
    folder, summary = diverged
    first, *others = summary["failures"]
    assert first["label"] == "resnet20 on mnist5k, lr 1e+30, seed 0, dense pre-training"
    assert (first["learning_rate"], first["protocol"]) == (1e30, "dense")
    assert "loss" in first["error"]
    assert {failure["error"] for failure in others} == {
        f"not run, as this failed: {first['label']}"
    }
    assert [failure["protocol"] for failure in others] == ["masks", "ticket", "finetune"]
    rows = json.loads((folder / "failures.json").read_text())
    assert [row["error"] for row in rows] == [f["error"] for f in summary["failures"]]
    assert rows[0]["traceback"][0].startswith("Traceback")
    assert any("_train" in line for line in rows[0]["traceback"])
    assert [row["traceback"] for row in rows[1:]] == [[]] * 3
    assert [note for note in notes.notes if "FAILED" in note] == [
        f"FAILED {first['label']}: {first['error']}"
    ]
    assert notes.totals()[0] == notes.totals()[1]


def test_the_report_and_the_tables_have_what_there_is(diverged):
    folder, _ = diverged
    assert "1e+30" in (folder / "report.html").read_text()
    with (folder / "history.csv").open() as file:
        assert {row["learning_rate"] for row in csv.DictReader(file)} == {"0.05"}


def test_the_same_command_tries_again_what_failed_and_that_alone(copied, config):
    before = {p: p.stat().st_mtime_ns for p in (copied / BRANCH).rglob("epoch-*")}
    old = json.loads((copied / "failures.json").read_text())
    (copied / "failures.json").write_text("[]")
    summary = again(config, copied)
    assert json.loads((copied / "failures.json").read_text()) == old
    assert len(summary["failures"]) == 4
    assert {p: p.stat().st_mtime_ns for p in (copied / BRANCH).rglob("epoch-*")} == before


def test_of_a_checkpoint_cut_short_the_one_before_takes_the_place(copied, config, diverged):
    newest = max((copied / BRANCH / "magnitude-0.9/ticket").glob("epoch-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="going on from the one before, epoch 1"):
        summary = again(config, copied)
    assert len(summary["failures"]) == 4
    drop = ("seconds", "seconds_per_epoch")
    first, second = (
        [{k: v for k, v in c.items() if k not in drop} for c in of_the_good_rate(s)]
        for s in (summary, diverged[1])
    )
    assert first == second
    assert summary["traces"] == diverged[1]["traces"]


def test_damage_beyond_that_fails_its_cell_alone(copied, config):
    assert damage(copied, "magnitude-0.9/ticket") == 2
    summary = again(config, copied)
    (failure,) = (f for f in summary["failures"] if f["learning_rate"] == 0.05)
    assert failure["protocol"] == "ticket"
    assert "no intact one is left; delete the folder" in failure["error"]
    assert [c["protocol"] for c in of_the_good_rate(summary)] == ["dense", "finetune"]
    # As it was told: the folder deleted, the cell is trained again.
    shutil.rmtree(copied / BRANCH / "magnitude-0.9/ticket")
    assert len(again(config, copied)["failures"]) == 4


def test_damage_of_what_others_came_from_leaves_them(copied, config, diverged):
    damage(copied, "magnitude-0.9/masks")
    summary = again(config, copied)
    assert [f["protocol"] for f in summary["failures"] if f["learning_rate"] == 0.05] == ["masks"]
    assert of_the_good_rate(summary) == of_the_good_rate(diverged[1])


def test_a_damaged_trace_fails_its_cell_alone(copied, config):
    (copied / BRANCH / "magnitude-0.9/finetune/overlap.json").write_text('[{"epoch": 1')
    summary = again(config, copied)
    (failure,) = (f for f in summary["failures"] if f["learning_rate"] == 0.05)
    assert (failure["protocol"], "overlap.json is damaged" in failure["error"]) == (
        "finetune",
        True,
    )


def test_damage_of_one_dense_network_leaves_another_to_compare(tiny, tmp_path):
    config = dataclasses.replace(
        tiny, seeds=(0, 1), generators=("magnitude",), sparsities=(0.5,), protocols=("finetune",)
    )
    folder = tmp_path / "run"
    assert again(config, folder)["failures"] == []
    damage(folder, "dense")
    summary = again(config, folder, report=True)
    assert [(f["seed"], f["protocol"]) for f in summary["failures"]] == [(0, "dense")]
    kept = [(c["seed"], c["protocol"]) for c in summary["cells"]]
    assert kept == [(0, "finetune"), (1, "dense"), (1, "finetune")]
    pairs = {(row["seed"], row["pair"]) for row in summary["overlaps"]}
    assert (0, "theta_0*m, (theta_T*m)_T") in pairs
    assert (1, "theta_T, (theta_T*m)_T") in pairs
    assert not any(
        seed == 0 and {"theta_T", "theta_T*m"} & set(pair.split(", ")) for seed, pair in pairs
    )
    damage(folder, "dense", seed=1)
    with pytest.raises(SparselthError, match="no network could be trained"):
        again(config, folder)


def test_weights_that_are_lost_in_the_last_step_stay_a_failure(tiny, tmp_path):
    # One step from a finite loss to weights that are none: the checkpoint is complete.
    config = dataclasses.replace(
        tiny,
        learning_rates=(0.05, 1e30),
        generators=("magnitude",),
        sparsities=(0.9,),
        protocols=("finetune",),
        epochs=1,
        train_limit=16,
        weight_decay=1e10,
    )
    for _ in range(2):
        summary = again(config, tmp_path / "run")
        assert labels(summary) == [
            "lr 1e+30, seed 0, dense pre-training",
            "lr 1e+30, seed 0, magnitude 90 %, masks",
            "lr 1e+30, seed 0, magnitude 90 %, finetune",
        ]
        assert "NaN or Inf" in summary["failures"][0]["error"]
        assert len(summary["cells"]) == 2


def test_a_mask_that_kills_a_layer_takes_its_protocols_with_it(tiny, tmp_path):
    config = dataclasses.replace(
        tiny,
        generators=("magnitude",),
        sparsities=(0.5, 0.99),
        allocation="global",
        protocols=("finetune",),
    )
    summary = again(config, tmp_path / "run")
    assert labels(summary) == [
        "lr 0.05, seed 0, magnitude 99 %, masks",
        "lr 0.05, seed 0, magnitude 99 %, finetune",
    ]
    assert "no weight is left in stages" in summary["failures"][0]["error"]


def test_where_nothing_could_be_trained_the_study_says_why(config, tmp_path):
    with pytest.raises(SparselthError, match=r"no network could be trained.*dense pre-training: "):
        again(config.changed({"learning_rates": [1e30]}), tmp_path / "run")
    rows = json.loads((tmp_path / "run/failures.json").read_text())
    assert [row["protocol"] for row in rows] == ["dense", "masks", "ticket", "finetune"]
    assert not (tmp_path / "run/summary.json").exists()


def test_timing_that_fails_leaves_the_rest(copied, config, monkeypatch):
    (copied / "timing.json").unlink()

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("sparselth.study.execution.jobs.time_training", broken)
    summary = again(config, copied)
    assert summary["timing"] == []
    assert (summary["failures"][-1]["protocol"], summary["failures"][-1]["error"]) == (
        "timing",
        "ZeroDivisionError",
    )
    assert len(of_the_good_rate(summary)) == 3
