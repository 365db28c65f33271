"""The command line: help, version, and errors of one sentence."""

import json
import os
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import typer
import yaml
from typer.testing import CliRunner

import sparselth
from sparselth.cli import app, main
from sparselth.study import PRESETS, StudyConfig
from sparselth.study.plan.names import GENERATORS
from sparselth.study.plan.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("one_thread")  # `--threads` would stay set

SMALL = ["--preset", "smoke", "--width", "0.125", "--train-limit", "48"]
SMALL += ["--epochs", "1", "--threads", "1"]


def _run(*arguments, cwd):
    command = [sys.executable, "-m", "sparselth", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparselth", *map(str, arguments)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:  # main shows its own way
            main()
        output, error = capsys.readouterr()
        return SimpleNamespace(returncode=stop.value.code, stdout=output, stderr=error)

    return command


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.strip() == f"sparselth {sparselth.__version__}"


def test_help_names_the_commands():
    result = CliRunner().invoke(app, ["--help"])
    assert "study" in result.output
    assert "profile" in result.output
    assert "info" in result.output


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("preset", PRESETS),
        ("protocols", PROTOCOLS),
        ("generators", GENERATORS),
        ("data", sparselth.data.names()),
        ("models", sparselth.models.names()),
    ],
)
def test_study_help_names_what_there_is(option, names):
    study = typer.main.get_command(app).commands["study"]
    (described,) = [parameter.help for parameter in study.params if parameter.name == option]
    assert set(names) <= set(re.findall(r"[\w-]+", described))


def test_info_says_what_was_built():
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    assert "torch" in result.output


def test_a_study_ends_with_a_table_the_plots_and_the_speed(run, tmp_path):
    result = _run("study", *SMALL, "--out", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for part in ("Test accuracy", "ticket", "re-init", "fine-tune", "report.html"):
        assert part in result.stdout
    assert "training done densely" in " ".join(result.stdout.split())
    assert (tmp_path / "run/summary.json").is_file()

    other = run("study", *SMALL, "--seeds", "7", "--out", "run")
    _check_sentence(other, "run holds another study: seeds is [0] there and [7] here")


def test_a_study_goes_on_without_the_part_that_fails(run):
    arguments = [*SMALL, "--learning-rates", "0.1,1e30", "--epochs", "2", "--out", "run"]
    result = run("study", *arguments)
    assert result.returncode == 1
    assert "FAILED resnet20 on mnist5k, lr 1e+30, seed 0, dense pre-training" in result.stdout
    assert "Test accuracy" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_file_of_settings_starts_from_the_paper_and_not_from_a_preset(run, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "models: [conv4]\nwidth: 0.0625\nepochs: 1\ntrain_limit: 32\ntest_limit: 16\n"
        "learning_rates: 0.1\nsparsities: 0.5\ngenerators: magnitude\nprotocols: ticket\n"
        "admm_update_every: 60\ntiming_steps: 1\ntiming_rounds: 1\n"
    )
    assert run("study", "--config", "mine.yaml").returncode == 0
    written = json.loads((tmp_path / "runs/mine/config.json").read_text())
    paper = StudyConfig().to_dict()
    given = set(yaml.safe_load((tmp_path / "mine.yaml").read_text()))
    assert all(written[name] == paper[name] for name in set(paper) - given)


def test_a_grid_in_one_file_with_a_network_of_ones_own(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2), nn.ReLU(),\n"
        "        nn.Conv2d(4, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "        nn.Linear(4, num_classes))\n"
    )
    (tmp_path / "grid.yaml").write_text(
        "models: [nets:make]\nwidth: 1.0\ndata: [mnist5k, mnist5k-textured]\n"
        "sparsities: [0.5]\ngenerators: [magnitude]\nprotocols: [ticket, finetune]\n"
        "train_limit: 32\ntest_limit: 16\nepochs: 1\n"
    )
    arguments = ["--preset", "smoke", "--config", "grid.yaml", "--out", "run", "--threads", "1"]
    result = _run("study", *arguments, "--workers", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for data in ("mnist5k", "mnist5k-textured"):
        assert f"nets:make on {data}" in result.stdout
        assert (tmp_path / f"run/checkpoints/nets.make/{data}/lr0.1/seed0/dense").is_dir()


def test_profile_shows_every_layer(run):
    arguments = ["resnet20", "--width", "0.25", "--batch", "4", "--image", "8", "--threads", "1"]
    result = run("profile", *arguments, "--sparsity", "0.8")
    assert result.returncode == 0, result.stderr
    table, left = result.stdout.split("\n\n")
    lines = table.splitlines()
    assert lines[0].startswith("layer")
    assert lines[-1].startswith("total")
    assert "  pool, aten.mean of 4x16x2x2: no kernel for it runs on lanes" in left.splitlines()
    assert sum(line.startswith("stages.") and " % " in line for line in lines) == 20
    _check_sentence(run("profile", "lenet"), "known: conv4, mobilenetv2, mobilenetv2-imagenet")
    _check_sentence(run("profile", "vgg11", "--batch", "0"), "--batch 0")


def _check_sentence(result, text):
    assert result.returncode == 2
    assert text in result.stderr
    assert result.stderr.startswith("sparselth: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "tiny"], "demo, mnist5k"),
        (["--models", "lenet"], "resnet56, vgg11, vgg16"),
        (["--models", "no_such_module:make"], "no_such_module cannot be imported"),
        (["--data", "cifar10"], "--data-root"),
        (["--data", "cifar10", "--data-root", "."], "cifar-10-batches-bin"),
        (["--config", "missing.yaml"], "missing.yaml cannot be read"),
        (["--sparsities", "95"], "below 1"),
        (["--set", "imp_rat=0.2"], "did you mean 'imp_rate'"),
        (["--set", "imp_rate"], "expected NAME=VALUE"),
        (["--set", "recipes={finetune: {epochs: 3}}"], "protocols are compared after the same"),
        (["--workers", "0", "--device", "cpu"], "how many processes are to share the CPU"),
        (["--workers", "2", "--cluster", "local"], "to one of them"),
        (["--cluster-option", "timeout_min=3"], "name the cluster, too"),
        (["--jobs", "3"], "got --jobs without --cluster"),
        (["--cluster", "local", "--threads", "2"], "cpus_per_task=2"),
        (["--set", "thresholds.gap=1"], "did you mean 'thresholds'?"),
        (["--cluster", "cray"], "submitit refuses the cluster 'cray'"),
        (["--cluster", "local", "--cluster-option", "no_such=3"], "no_such"),
        (["--device", "tpu"], "auto, cpu, cuda"),
        (["--threads", "-1"], "--threads"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(arguments, says, run, tmp_path):
    _check_sentence(run("study", *arguments, "--out", "run"), says)
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_bench_prints_a_table_and_writes_its_rows(run, tmp_path):
    path = tmp_path / "new" / "bench.json"
    options = ["--seconds", "0.01", "--threads", "1"]
    result = run("bench", "optimizer", *options, "--json", str(path))
    assert result.returncode == 0, result.stderr
    assert "masked_sgd_: times as fast as" in result.stdout
    assert "torch AdamW, masks multiplied in" in result.stdout
    found = json.loads(path.read_text())
    assert found["command"].startswith("sparselth bench optimizer")
    assert {row["op"] for row in found["results"]} == {"masked_sgd_", "masked_adamw_"}
    _check_sentence(run("bench", "convolution"), "unknown benchmark 'convolution'")
    _check_sentence(run("bench", "conv", "--sparsities", "0.9;0.8"), "expected numbers such as")
    _check_sentence(run("bench", "conv", "--seconds", "0"), "--seconds must be a finite number > 0")
    _check_sentence(run("bench", "conv", "--json", str(tmp_path)), "is a folder; name a file in it")
    os.mkfifo(tmp_path / "pipe")
    _check_sentence(run("bench", "conv", "--json", str(tmp_path / "pipe")), "is no regular file")
    for threads in ("-1", "100000"):
        _check_sentence(run("bench", "conv", "--threads", threads), "it must be in [0, 1024]")
