"""Headers of csrc alone, compiled for a test and called through ctypes."""

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"


def library_of(source, folder, *flags):
    """Return the path of a library of C++ `source`, built in `folder`; skip without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    written, library = folder / "driver.cpp", folder / "driver.so"
    written.write_text(source)
    always = ["-std=c++20", "-O1", "-shared", "-fPIC", f"-I{CSRC}"]
    subprocess.run([compiler, *always, "-o", str(library), str(written), *flags], check=True)
    return str(library)
