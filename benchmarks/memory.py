"""Peak memory of a training step, each contestant in a process of its own.

python benchmarks/memory.py resnet20 0.9 sparse        prints MiB
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from sparselth.bench.step import CONTESTANTS

STEPS = 2  # the first allocates gradients and momenta, the second has them all along


def peak_of(name: str, sparsity: float, contestant: str) -> float:
    """Measure one contestant in a fresh process; return MiB."""
    command = [sys.executable, __file__, name, str(sparsity), contestant]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def measure(name: str, sparsity: float, contestant: str) -> float:
    """Return the peak of resident memory during the steps, in MiB, less what it was before.

    Before: torch and sparselth imported, and a step of one small convolution done, as the first
    optimizer imports much of torch. So weights, masks, plans, gradients, momenta and activations
    count, and what was needed only to set up does not.
    """
    small = torch.nn.Conv2d(8, 8, 3)
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small(torch.randn(1, 8, 8, 8)).sum().backward()
    optimizer.step()
    before = resident("VmRSS")
    step = CONTESTANTS[contestant](name, sparsity)
    forget_peak()
    for _ in range(STEPS):
        step()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """Return a field of this process's memory status in MiB. VmRSS: now; VmHWM: its peak.

    Not `resource.getrusage`: its peak includes the parent's memory at the time of the fork.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, flags=re.MULTILINE)
    if not found:
        raise RuntimeError(f"/proc/self/status has no {field}; peak memory needs Linux")
    return int(found[1]) / 1024


def forget_peak() -> None:
    """Let VmHWM start again from what is resident now (Linux, proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


if __name__ == "__main__":
    torch.manual_seed(0)
    print(measure(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
