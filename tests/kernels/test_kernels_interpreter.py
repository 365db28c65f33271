"""Run the interpreted tests in processes of their own: Triton reads the variable when imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's")


@pytest.mark.parametrize("module", ["interpreted.py", "interpreted_defects.py"])
def test_in_the_interpreter(module):
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", module],
        cwd=Path(__file__).parents[1] / "support" / "triton",
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if result.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
