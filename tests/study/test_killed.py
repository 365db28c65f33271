"""A study that is killed again and again ends with the numbers of one that was not."""

import json
import random
import subprocess
import sys
import time

import pytest

from sparselth import study

SETTINGS = {
    "width": 0.125,
    "train_limit": 128,
    "test_limit": 32,
    "batch_size": 16,
    "learning_rates": [0.05],
    "sparsities": [0.9],
    "epochs": 6,
    "admm_epochs": 3,
    "admm_update_every": 1,
    "timing_steps": 1,
    "timing_rounds": 1,
}
KILLS = 3


def _start(folder, config):
    command = [sys.executable, "-m", "sparselth", "study", "--preset", "smoke", "--threads", "1"]
    command += ["--config", str(config), "--out", str(folder), "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _checkpoints(folder):
    return set((folder / "checkpoints").rglob("epoch-*.json"))


def _numbers(folder):
    """Everything a study reports except how long it took."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["timing"], summary["seconds_per_epoch"]
    lines = (folder / "history.csv").read_text().splitlines()
    return summary, [line.rsplit(",", 1)[0] for line in lines]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "study.yaml"
    file.write_text(json.dumps(SETTINGS))  # JSON is YAML too
    return file


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A study from the command line that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = _start(folder, config)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return folder


def test_killed_at_random_moments_it_ends_with_the_same_numbers(tmp_path, config, whole):
    rng = random.Random(0)
    folder = tmp_path / "run"
    for _ in range(KILLS):
        before = _checkpoints(folder)
        process = _start(folder, config)
        # Not before it has moved on, so that the kills fall on work and the test comes to an end.
        while _checkpoints(folder) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
    last = _start(folder, config)
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert _numbers(folder) == _numbers(whole)
    assert not list(folder.rglob("*.tmp"))


def test_the_command_line_and_the_library_agree(tmp_path, whole):
    study.run(study.preset("smoke").changed(SETTINGS), tmp_path / "run", device="cpu")
    assert _numbers(tmp_path / "run") == _numbers(whole)
