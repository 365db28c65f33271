"""The examples run, and their settings are settings."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from sparselth.settings import read_yaml
from sparselth.study import StudyConfig

EXAMPLES = Path(__file__).parent.parent / "examples"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_script_runs(script, capsys):
    runpy.run_path(str(script))
    assert capsys.readouterr().out.strip()


def test_an_op_of_its_own_is_built_and_agrees():
    """In a process of its own: what it registers would stay."""
    script = EXAMPLES / "new_op" / "identity.py"
    run = [sys.executable, str(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "the kernel agrees with the oracle"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_configuration_is_valid(file):
    StudyConfig().changed(read_yaml(file))
