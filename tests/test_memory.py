"""Freed memory stays in the process, or leaves it, once that is asked for."""

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


HOLES = """
import torch
from sparselth.memory import return_freed_memory
def resident():
    import re
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
blocks = [torch.ones(100 << 10 >> 2) for _ in range(1000)]  # too small to be mapped
last = torch.ones(100)
del blocks[:-1]  # but the last one, above them
before = resident()
assert return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_goes_back():
    done = subprocess.run(
        [sys.executable, "-c", HOLES], check=True, stdout=subprocess.PIPE, text=True
    )
    assert int(done.stdout) > 80
