"""Run `interpreted.py` in a process of its own: Triton reads the variable when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels are Triton's")


def test_the_kernels_agree_with_the_oracle_in_the_interpreter():
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "interpreted.py"],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if result.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
