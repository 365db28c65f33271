"""Freed memory stays in the process once that is asked for."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
import sparselth as sl
if sys.argv[1] == "keep":
    assert sl.keep_freed_memory()
def step():
    torch.ones(12 << 20)  # more than glibc ever keeps by default (32 MiB)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(8)))
"""


def faults(how):
    command = [sys.executable, "-c", SCRIPT, how]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_page_faults_end():
    assert faults("keep") < 100 < faults("free")
