"""The examples run, and their settings are settings."""

import runpy
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


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_configuration_is_valid(file):
    StudyConfig().changed(read_yaml(file))
