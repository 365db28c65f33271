"""Commands one after another within one deadline: how the reports of a GPU do what they do.

A part runs in a process group of its own that does not outlive it, whatever it started. What it
prints goes to a log at once, so that a kill from outside loses nothing of it.
"""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Between Ctrl-C, on which pytest writes down what it has, and the end.
GRACE_S = 10
# With less there is no point in a start.
LEAST_S = 5

# Modules that a part may need -> what pip calls them.
PACKAGES = {"pytest_benchmark": "pytest-benchmark", "xdist": "pytest-xdist"}


def missing(modules: Sequence[str]) -> list[str]:
    """List those of the modules that cannot be imported here, as pip calls them."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return [PACKAGES.get(name, name) for name in absent]


@dataclass
class Part:
    """One step of a report: what is run, how it ended, and the end of what it printed.

    limit_s: seconds.  needs: modules without which it is left out.  settings: environment
    variables of its own.
    """

    name: str
    command: list[str]
    limit_s: float
    needs: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    status: str = "not run"
    seconds: float = 0.0
    last_line: str = ""

    def run(self, log: Path, seconds: float = math.inf) -> None:
        """Run and append to `log`; with what it takes to end, in no more than `seconds`."""
        limit_s = min(self.limit_s, seconds - GRACE_S)
        absent = missing(self.needs)
        if absent:
            self.status, self.last_line = "left out", f"needs {', '.join(absent)}: not installed"
        elif limit_s < min(LEAST_S, self.limit_s):
            self.status, self.last_line = "no time left", ""
        else:
            self._run(log, limit_s)

    def _run(self, log: Path, limit_s: float) -> None:
        begun, log_begun = time.monotonic(), log.stat().st_size if log.exists() else 0
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # what was brought stays
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
        with log.open("a", encoding="utf-8") as sink:
            try:
                # Into a file: what a part leaves running could hold a pipe open for ever.
                process = subprocess.Popen(
                    self.command,
                    cwd=ROOT,
                    env=env | self.settings,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                self.status = "failed to start"
                sink.write(f"{error}\n")
            else:
                self.status = "cut short"
                self.status = _ended_within(process, limit_s)
                if "pytest" in self.command and self.status == "failed (5)":
                    self.status = "no tests"
        self.seconds = round(time.monotonic() - begun, 1)
        self.last_line = _last_line(log, log_begun)


def _ended_within(process: subprocess.Popen, limit_s: float) -> str:
    """Wait for the end, or bring it about, of the whole group; return how it came."""
    try:
        try:
            return _ended(process.wait(limit_s))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            return f"over {limit_s:.0f} s"
    finally:  # also when we are ended ourselves
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # nobody is left, which is what is wanted
        os.killpg(process.pid, number)


def _ended(code: int) -> str:
    return "ok" if code == 0 else f"failed ({code})"


def _last_line(log: Path, begun: int) -> str:
    lines = log.read_bytes()[begun:].decode(errors="replace").strip().splitlines()
    return (lines or [""])[-1].strip("= ")[:200]


def run_all(
    parts: Sequence[Part], log: Path, seconds: float, after_each: Callable[[], object]
) -> None:
    """Run the parts in order, all within `seconds`; `after_each` is called behind every one."""
    # So that the group of the part that runs ends with us.
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGINT)}
    begun = time.monotonic()
    try:
        for part in parts:
            print(f"--- {part.name}", flush=True)
            part.run(log, seconds - (time.monotonic() - begun))
            print(line(part), flush=True)
            after_each()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    sys.exit(f"ended from outside by {signal.Signals(number).name}")


def line(part: Part) -> str:
    """Say in one line how a part ended."""
    return f"  {part.name:<24} {part.status:<13} {part.seconds:>6.1f} s  {part.last_line}".rstrip()


def summary(parts: Sequence[Part], characters: int) -> str:
    """Say how every part ended, each line cut where together they would be longer."""
    each = characters // max(len(parts), 1) - 1
    return "\n".join(line(part)[:each] for part in parts)
