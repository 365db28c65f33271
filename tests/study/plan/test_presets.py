"""The presets, and the paper's on small files in CIFAR's own format."""

import numpy as np
import pytest

from sparselth import SparselthError, study
from sparselth.study import PRESETS, preset
from sparselth.study.analysis.expected import EXPECTED, beside_the_paper

SMALL = {
    "models": ["resnet20"],
    "learning_rates": [0.1],
    "seeds": [0],
    "sparsities": [0.5],
    "epochs": 2,
    "batch_size": 16,
    "admm_epochs": 1,
    "admm_update_every": 1,
    "rewind_epoch": 1,
    "timing_steps": 1,
    "timing_rounds": 1,
}


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """CIFAR-10 and CIFAR-100 in the binary version, with a few images."""
    root, rng = tmp_path_factory.mktemp("cifar"), np.random.RandomState(0)

    def write(name, labels, count):
        rows = rng.randint(0, 256, (count, labels + 3072)).astype(np.uint8)
        rows[:, :labels] %= 10
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(rows.tobytes())

    for number in range(1, 6):
        write(f"cifar-10-batches-bin/data_batch_{number}.bin", 1, 8)
    write("cifar-10-batches-bin/test_batch.bin", 1, 8)
    write("cifar-100-binary/train.bin", 2, 40)
    write("cifar-100-binary/test.bin", 2, 8)
    return root


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("paper")])
def test_the_papers_settings(name):
    config = preset(name)
    recipe = config.recipe(0.1, seed=0)
    assert (recipe.epochs, recipe.batch_size, recipe.momentum) == (150, 128, 0.9)
    assert [recipe.learning_rate_at(e) for e in (79, 80, 120)] == pytest.approx([0.1, 0.01, 0.001])
    assert config.models == ("resnet20", "vgg11", "mobilenetv2")
    assert set(config.data) <= {"cifar10", "cifar100"}
    assert (config.seeds, config.width) == ((0, 1, 2, 3, 4), 1.0)
    assert (config.allocation, config.prune_first, config.imp_reset) == (
        "uniform",
        False,
        "theta_0",
    )


def test_both_learning_rates_and_all_generators_are_in_the_tables():
    for name in ("paper-cifar10", "paper-cifar100"):
        assert preset(name).learning_rates == (0.01, 0.1)
        assert set(preset(name).generators) == {"imp", "admm", "magnitude"}
    assert preset("paper-rewinding").rewind_epoch == 10


def test_a_study_has_a_place_for_every_number_of_the_paper():
    grids = [preset(name) for name in PRESETS if name.startswith("paper")]
    for expected in EXPECTED:
        assert any(
            expected.model in grid.models
            and expected.data in grid.data
            and expected.learning_rate in grid.learning_rates
            and (not expected.generator or expected.generator in grid.generators)
            and (not expected.sparsity or expected.sparsity in grid.sparsities)
            and (expected.protocol == "dense" or expected.protocol in grid.protocols)
            for grid in grids
        ), expected.label


@pytest.mark.parametrize(("name", "data"), [("paper-table1", 2), ("paper-cifar10", 1)])
def test_on_real_files_the_papers_numbers_stand_beside(name, data, cifar, tmp_path):
    config = preset(name).changed({**SMALL, "generators": ["admm"], "data_root": str(cifar)})
    summary = study.run(config, tmp_path / "run", device="cpu")
    assert summary["failures"] == []
    rows = beside_the_paper(summary)
    wanted = [e.value for e in EXPECTED if e.model == "resnet20" and e.data in config.data]
    assert [row["paper"] for row in rows] == wanted
    dense = [row["measured"] for row in rows if row["what"] == "dense, learning rate 0.1"]
    cells = [cell for cell in summary["cells"] if cell["protocol"] == "dense"]
    assert dense == [cell["test_accuracy"] for cell in cells]
    assert len(dense) == data
    assert all(row["measured"] is None for row in rows if "learning rate 0.01" in row["what"])
    overlaps = [row for row in rows if "R_0.2" in row["what"]]
    assert all(0 < row["measured"] <= 1 for row in overlaps)
    page = (tmp_path / "run/report.html").read_text()
    assert "Beside the paper" in page
    assert all(f"<td>{row['paper']:g}</td>" in page for row in rows)


def test_narrower_networks_have_no_number_in_the_paper(cifar, tmp_path):
    config = preset("paper-table1").changed({**SMALL, "data_root": str(cifar), "data": "cifar10"})
    config = config.changed({"width": 0.125})
    assert beside_the_paper(study.run(config, tmp_path / "run", device="cpu")) == []


def test_unknown_preset():
    with pytest.raises(SparselthError, match="demo, mnist5k"):
        preset("quick")
