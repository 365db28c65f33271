"""Networks and images of the user's own in a study."""

import dataclasses

import pytest
import torch

from sparselth import SparselthError, study
from sparselth.study import Cell
from sparselth.study.execution.compute import Work
from sparselth.study.plan.cells import MASKS

CPU = torch.device("cpu")
RATE = 0.05

BARE = """
from torch import nn

def make(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(1024 * in_channels, num_classes))

def deep(num_classes, in_channels):
    layers = nn.Linear(1024 * in_channels, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(12, num_classes))

def color(num_classes, in_channels):
    assert in_channels == 3, "for color\\nonly"
    return deep(num_classes, in_channels)
"""


def test_a_model_with_nothing_to_prune_leaves_no_folder(tiny, tmp_path, monkeypatch):
    (tmp_path / "bare_nets.py").write_text(BARE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny.changed({"models": ["bare_nets:make"], "width": 1.0})
    with pytest.raises(SparselthError, match="the model has no weight to prune"):
        study.run(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        # Whatever the order of the data sets.
        (
            {"data": ["mnist5k", "mnist5k-textured"]},
            r"1-channel images at width 1: AssertionError: for color only \(.*, line",
        ),
        (
            {"data": ["mnist5k-textured"], "protocols": ["small-dense"]},
            "the function takes no width",
        ),
    ],
)
def test_a_network_that_cannot_be_built_leaves_no_folder(tiny, tmp_path, monkeypatch, change, says):
    (tmp_path / "bare_nets.py").write_text(BARE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny.changed({"models": ["bare_nets:color"], "width": 1.0, **change})
    with pytest.raises(SparselthError, match=says):
        study.run(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_network_of_ones_own(tiny, tmp_path, monkeypatch):
    (tmp_path / "bare_nets.py").write_text(BARE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    work = Work(tiny.changed({"models": ["bare_nets:deep"], "width": 1.0}), tmp_path / "run", CPU)
    dense = Cell("bare_nets:deep", "mnist5k", RATE, 0)
    masks = dataclasses.replace(dense, generator="magnitude", sparsity=0.9, protocol=MASKS)
    work.draw(dense, "theta_0")
    for step in (dense, masks, masks.sibling("ticket")):
        work.compute(step)
    assert list(work.masks(masks)) == ["1.weight", "3.weight"]
    assert len(work.history(masks.sibling("ticket"))) == 2


def test_a_folder_of_images(tiny, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for i, place in enumerate(["train/a", "train/b", "val/a", "val/b"] * 2):
        (tmp_path / "images" / place).mkdir(parents=True, exist_ok=True)
        image.new("RGB", (40, 30), (i * 9, 80, 200)).save(tmp_path / f"images/{place}/{i}.png")
    given = {"data": ["imagefolder"], "data_root": str(tmp_path / "images")}
    work = Work(tiny.changed({**given, "train_limit": 0, "test_limit": 0}), tmp_path / "run", CPU)
    dense = Cell("resnet20", "imagefolder", RATE, 0)
    work.draw(dense, "theta_0")
    work.compute(dense)
    assert work.trained(dense)["classifier.weight"].shape[0] == 2
    for change, says in (({}, "is used whole"), ({"data_root": ""}, "none was named")):
        with pytest.raises(SparselthError, match=says):
            study.run(tiny.changed({**given, **change}), tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()
