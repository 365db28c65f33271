"""Jobs that tell where they run, fail or do not hear, and what is asked of their processes.

Processes that are spawned import this file: keep what it does on import small.
"""

import dataclasses
import os
import signal
import time
from pathlib import Path

import torch


@dataclasses.dataclass(frozen=True)
class Say:
    """Tell which process this is, and on what; `path` says that it has begun."""

    path: Path | None = None
    seconds: float = 0.0

    def __call__(self, device):
        if self.path is not None:
            self.path.write_text(f"{os.getpid()} {torch.get_num_threads()}")
            time.sleep(self.seconds)
        return {"pid": os.getpid(), "device": device, "threads": torch.get_num_threads()}


@dataclasses.dataclass(frozen=True)
class Fail:
    """Raise, or end the whole process."""

    code: int = 0

    def __call__(self, device):
        if self.code:
            os._exit(self.code)
        raise RuntimeError(f"no luck on {device}")


@dataclasses.dataclass(frozen=True)
class Deaf:
    """Leave the process as a training does where SIGTERM comes too late."""

    def __call__(self, device):
        signal.signal(signal.SIGTERM, lambda *_: None)


def wait_for(condition, seconds=60):
    begin = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - begin < seconds, "it never came"
        time.sleep(0.02)
    return found


def told(path):
    """Return process and threads of a `Say` that has begun."""
    return tuple(map(int, path.read_text().split())) if path.is_file() else ()


def is_running(pid):
    """Tell whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
