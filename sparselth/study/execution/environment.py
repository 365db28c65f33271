"""Where a study ran: what a reader needs to judge its times, and its last digits."""

from __future__ import annotations

import datetime
import os
import platform
import warnings
from typing import Any

import torch

from ...ops.libraries import has_kernel
from ...version import __version__

# Other things equal, these decide the rounding of a sum.
_DECIDES_ROUNDING = ("device", "torch", "threads", "kernels")


def environment(device: torch.device) -> dict[str, Any]:
    """Describe device, threads and versions; nothing that names a machine or a person."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": device.type if has_kernel("masked_conv2d", device.type) else "reference",
        "torch": str(torch.__version__),  # a subclass of str, which YAML refuses
        "python": platform.python_version(),
        "sparselth": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def warn_if_changed(before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """Warn when a study goes on where its sums may round differently."""
    changed = [
        f"{name} was {before.get(name)} and is {now[name]}"
        for name in _DECIDES_ROUNDING
        if before is not None and before.get(name) != now[name]
    ]
    if changed:
        warnings.warn(
            f"this study was begun elsewhere ({'; '.join(changed)}), so what is trained from here "
            "on can differ in the last digits from an unbroken run",
            stacklevel=2,
        )


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
