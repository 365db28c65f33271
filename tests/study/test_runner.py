"""A whole study: its files, its numbers, and that the library gives the same by hand."""

import csv
import json

import pytest
import torch

import sparselth as sl
from sparselth import SparselthError, data, models, study
from sparselth.study.execution.folder import opened
from sparselth.training import ADMMSchedule, CheckpointFolder, train
from sparselth.training.resume import load_weights

BRANCH = "checkpoints/resnet20/mnist5k/lr0.05/seed0"
DRAWS = "checkpoints/init/resnet20/mnist5k/seed0"


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    return folder, study.run(tiny, folder, device="cpu")


def _rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def _times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _files(folder):
    return {path: when for path, when in _times(folder).items() if path.is_file()}


def _place(cell):
    return tuple(cell[k] for k in ("generator", "sparsity", "protocol", "seed"))


def test_the_folder_holds_everything(done, tiny):
    folder, summary = done
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert json.loads((folder / "config.json").read_text()) == tiny.to_dict()
    assert json.loads((folder / "failures.json").read_text()) == []
    assert json.loads((folder / "environment.json").read_text())["threads"] == 1
    assert "<html" in (folder / "report.html").read_text()
    plots = list((folder / "plots").iterdir())
    assert plots
    assert all("<svg" in plot.read_text() for plot in plots)
    # 13 trainings of two epochs, and two searches by ADMM.
    assert len(_rows(folder / "history.csv")) == 2 * 13 + 2 * 2
    assert len(_rows(folder / "overlap_trace.csv")) == 2 * 13
    assert len(_rows(folder / "accuracy.csv")) == 13
    assert len(_rows(folder / "timing.csv")) == 2
    assert not list(folder.rglob("*.tmp"))


def test_every_cell_is_there_once(done):
    _, summary = done
    trained = [c for c in summary["cells"] if c["protocol"] != "masks"]
    names = [(c["generator"], c["sparsity"], c["protocol"]) for c in trained]
    assert len(names) == len(set(names)) == 1 + 2 * 2 * 3
    assert all(0 <= c["test_accuracy"] <= 100 for c in summary["cells"])
    assert len(summary["masks"]) == 2 * 2
    for found in summary["masks"]:
        assert found["measured_sparsity"] == pytest.approx(found["sparsity"], abs=0.02)
        assert ("relative_residual" in found) == (found["generator"] == "admm")


def test_overlaps_are_those_of_the_paper(done):
    folder, summary = done
    rows = summary["overlaps"]
    dense = [r for r in rows if r["pair"] == "theta_0, theta_T"]
    assert [r["p"] for r in dense] == [0.1, 0.2, 0.3, 0.4, 0.5]
    # Sparse against dense only for p below the share of remaining weights.
    against_dense = [r for r in rows if r["pair"] == "theta_T, (theta_T*m)_T"]
    assert {(r["sparsity"], r["p"]) for r in against_dense} == {
        (0.5, p) for p in (0.1, 0.2, 0.3, 0.4)
    }
    branch = folder / BRANCH
    masks = CheckpointFolder(branch / "admm-0.9/masks").load()[1]["masks"]
    networks = {
        "theta_0*m": load_weights(CheckpointFolder(folder / DRAWS / "theta_0")),
        "theta_0'*m": load_weights(CheckpointFolder(folder / DRAWS / "theta_0_prime")),
        "theta_T*m": load_weights(CheckpointFolder(branch / "dense")),
        "(theta_0*m)_T": load_weights(CheckpointFolder(branch / "admm-0.9/ticket")),
        "(theta_0'*m)_T": load_weights(CheckpointFolder(branch / "admm-0.9/reinit")),
        "(theta_T*m)_T": load_weights(CheckpointFolder(branch / "admm-0.9/finetune")),
    }
    kept = sum(int(mask.sum()) for mask in masks.values())
    place = {"generator": "admm", "sparsity": 0.9, "p": 0.2, "share_of": "remaining"}
    of_the_mask = [r for r in rows if all(r[k] == v for k, v in place.items())]
    assert len(of_the_mask) == 8
    for row in of_the_mask:
        first, second = (
            {name: networks[part][name] for name in masks} for part in row["pair"].split(", ")
        )
        assert row["overlap"] == sl.weight_overlap(first, second, 0.2, masks), row["pair"]
        assert row["chance_sd"] == pytest.approx(0.8 / kept**0.5)


def test_reinitialization_draws_every_layer_anew(done):
    folder, _ = done
    theta_0 = load_weights(CheckpointFolder(folder / DRAWS / "theta_0"))
    theta_0_prime = load_weights(CheckpointFolder(folder / DRAWS / "theta_0_prime"))
    for name in ("stem.weight", "stages.0.0.conv1.weight", "classifier.weight"):
        assert not torch.equal(theta_0[name], theta_0_prime[name])


@pytest.mark.parametrize("generator", ["magnitude", "admm"])
def test_a_hand_written_loop_gives_the_same_weights(done, tiny, generator):
    folder, summary = done
    digits = data.load("mnist5k").limited(48, 32)

    def network(weights):
        model = models.build("resnet20", num_classes=10, in_channels=1, width=0.125)
        model.load_state_dict(weights)
        return model

    theta_0 = study.initial_weights(tiny, digits, seed=0)
    dense = network(theta_0)
    train(dense, digits, tiny.recipe(0.05, seed=0, stage="pretrain"))
    theta_T = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    if generator == "admm":
        admm = sl.ADMM(
            dense,
            sparsity=0.9,
            rho=tiny.admm_rho,
            rho_schedule=sl.pruning.rho.growing(tiny.admm_rho_growth),
        )
        train(dense, digits, tiny.admm_recipe(seed=0), regularizer=ADMMSchedule(admm))
        masks = admm.masks()
    else:
        masks = sl.find_masks(dense, sparsity=0.9)
    starts = {
        "ticket": theta_0,
        "reinit": study.initial_weights(tiny, digits, seed=0, draw="theta_0_prime"),
        "finetune": theta_T,
    }
    for protocol, weights in starts.items():
        model = network(weights)
        history = train(model, digits, tiny.recipe(0.05, seed=0), masks=masks)
        place = folder / BRANCH / f"{generator}-0.9" / protocol
        expected = load_weights(CheckpointFolder(place))
        trained = sl.densify(model).state_dict()
        assert all(torch.equal(trained[name], tensor) for name, tensor in expected.items())
        (cell,) = (
            c
            for c in summary["cells"]
            if (c["generator"], c["sparsity"], c["protocol"]) == (generator, 0.9, protocol)
        )
        assert cell["test_accuracy"] == history.test_accuracy


def test_again_is_only_loading(done, tiny):
    folder, summary = done
    before = _times(folder / "checkpoints")
    assert study.run(tiny, folder, device="cpu") == summary
    assert _times(folder / "checkpoints") == before


def test_a_folder_of_another_study_is_left_alone(done, tiny):
    folder, _ = done
    before = _times(folder)
    with pytest.raises(SparselthError, match=r"epochs is 2 there and 3 here; name another folder"):
        study.run(tiny.changed({"epochs": 3}), folder, device="cpu")
    assert _times(folder) == before


def test_a_study_that_grew_is_the_one_made_at_once(done, tiny, tmp_path):
    folder, summary = tmp_path / "run", done[1]
    first = {
        "generators": ["magnitude"],
        "sparsities": [tiny.sparsities[1]],
        "protocols": ["reinit"],
    }
    study.run(tiny.changed(first), folder, device="cpu")
    before = _files(folder / "checkpoints")
    grown = tiny.changed({"generators": ["magnitude"], "protocols": ["ticket", "reinit"]})
    found = {_place(cell): cell for cell in study.run(grown, folder, device="cpu")["cells"]}
    assert before.items() <= _files(folder / "checkpoints").items()
    made_at_once = {_place(cell): cell for cell in summary["cells"]}
    assert len(found) == 1 + 2 * 2
    for place, cell in found.items():
        assert cell["test_accuracy"] == made_at_once[place]["test_accuracy"]


def test_a_folder_with_something_else_is_left_alone(tmp_path, tiny):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(SparselthError, match=r"holds 'thesis.tex' but no study"):
        study.run(tiny, tmp_path, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_no_run_folder_is_named(tmp_path, tiny):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"name": "of another program"}')
    for place, says in (
        ("file", "file is a file; name a folder"),
        ("other", r"config\.json is not the configuration of a study"),
        ("file/below", "cannot be made: "),
    ):
        with pytest.raises(SparselthError, match=says):
            study.run(tiny, tmp_path / place, device="cpu")
    assert (tmp_path / "file").read_text() == "precious"


def test_two_at_once_are_refused(tmp_path, tiny):
    with (
        opened(tmp_path / "run", tiny),
        pytest.raises(SparselthError, match="another study is running"),
    ):
        study.run(tiny, tmp_path / "run", device="cpu")


def test_a_missing_data_set_leaves_no_folder(tmp_path, tiny):
    config = tiny.changed({"data": "cifar10", "data_root": str(tmp_path)})
    with pytest.raises(SparselthError, match="cifar10 is not in"):
        study.run(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_an_unknown_device_leaves_no_folder(tmp_path, tiny):
    with pytest.raises(SparselthError, match="auto, cpu, cuda"):
        study.run(tiny, tmp_path / "run", device="tpu")
    assert not (tmp_path / "run").exists()
