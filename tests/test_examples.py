"""The examples run, and their settings are settings."""

import runpy
from pathlib import Path

import pytest
import torch

from sparselth.study import preset
from sparselth.study.config import read_yaml

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _one_thread():
    # These networks are too small to share out, and waiting threads are slow on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_script_runs(script, capsys):
    runpy.run_path(str(script))
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_configuration_is_valid(file):
    preset("demo").changed(read_yaml(file))
