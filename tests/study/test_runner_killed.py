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
    "train_limit": 48,
    "test_limit": 32,
    "batch_size": 16,
    "learning_rates": [0.05],
    "generators": ["imp", "admm"],
    "sparsities": [0.3],
    "protocols": ["rewind"],
    "epochs": 3,
    "rewind_epoch": 1,
    "imp_rate": 0.2,
    "admm_epochs": 2,
    "admm_update_every": 1,
    "timing_steps": 1,
    "timing_rounds": 1,
}
ALONE, SIDE_BY_SIDE = [], ["--workers", "2"]
CLOCKS = ("seconds", "seconds_per_epoch")


def _start(folder, config, options):
    command = [sys.executable, "-m", "sparselth", "study", "--preset", "smoke", "--threads", "1"]
    command += ["--config", str(config), "--out", str(folder), "--device", "cpu", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _checkpoints(folder):
    return set((folder / "checkpoints").rglob("epoch-*.json"))


def _numbers(folder):
    """Everything a study reports except when, and how long it took."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["timing"], summary["environment"]["date"]
    for cell in summary["cells"]:
        for clock in CLOCKS:
            del cell[clock]
    lines = (folder / "history.csv").read_text().splitlines()
    traces = (folder / "overlap_trace.csv").read_text()
    return summary, [line.rsplit(",", 1)[0] for line in lines], traces


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study in this process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    study.run(study.preset("smoke").changed(SETTINGS), folder, device="cpu")
    return folder


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_numbers(tmp_path, whole):
    rng = random.Random(0)
    folder, config = tmp_path / "run", tmp_path / "study.yaml"
    config.write_text(json.dumps(SETTINGS))  # JSON is YAML too
    for options in (ALONE, SIDE_BY_SIDE):
        process = _start(folder, config, options)
        # Not before it has moved on, so that the kills fall on work, and not all on the same cell.
        for _ in range(rng.randint(4, 6)):
            before = _checkpoints(folder)
            while _checkpoints(folder) == before and process.poll() is None:
                time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.communicate()
    # At once: workers that have not yet noticed may still be at a cell.
    last = _start(folder, config, ALONE)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output
    assert _numbers(folder) == _numbers(whole)
    assert not list(folder.rglob("*.tmp"))
