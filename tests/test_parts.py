"""The parts of a report: how they end, and that they leave nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import parts
import pytest
from parts import Part

ROOT = Path(__file__).parent.parent


def python(name: str, code: str, *arguments: str, limit_s: float = 60, **more) -> Part:
    return Part(name, [sys.executable, "-c", code, *arguments], limit_s, **more)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def test_a_part_that_takes_too_long_keeps_what_it_has_measured(tmp_path, log):
    measuring = (
        "import sys, time\n"
        "try:\n"
        "    print('measuring', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    open(sys.argv[1], 'w').write('measured')\n"
        "    print('written')\n"
    )
    result = tmp_path / "result"
    part = python("slow", measuring, str(result), limit_s=2)
    part.run(log)
    assert (part.status, part.last_line) == ("over 2 s", "written")
    assert result.read_text() == "measured"
    assert log.read_text() == "measuring\nwritten\n"


@pytest.mark.parametrize(
    ("code", "status"), [("", "ok"), ("raise SystemExit(3)", "failed (3)")], ids=str
)
def test_a_part_says_how_it_ended(log, code, status):
    part = python("fast", code)
    part.run(log)
    assert part.status == status


def test_a_program_that_is_not_there(log, tmp_path):
    part = Part("missing", [str(tmp_path / "nothing")], limit_s=1)
    part.run(log)
    assert part.status == "failed to start"
    assert "nothing" in part.last_line


STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "child = 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)'\n"
    "started = subprocess.Popen([sys.executable, '-c', child])\n"
    "open(sys.argv[1], 'w').write(str(started.pid))\n"
    "time.sleep(float(sys.argv[2]))\n"
)


@pytest.mark.parametrize("sleeps", [0, 60])
def test_what_a_part_started_ends_with_it(tmp_path, log, sleeps):
    """Also one that ignores Ctrl-C and holds the output open, as compilers and sanitizers do."""
    pid = tmp_path / "pid"
    begun = time.monotonic()
    part = python("parent", STUBBORN, str(pid), str(sleeps), limit_s=3)
    part.run(log)
    assert time.monotonic() - begun < 30
    assert part.status == ("over 3 s" if sleeps else "ok")
    assert not alive(int(pid.read_text()))


def alive(pid: int) -> bool:
    for _ in range(50):  # it is the system that buries it
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_the_path_that_was_given_stays(monkeypatch, log):
    monkeypatch.setenv("PYTHONPATH", "/brought")
    part = python("path", "import os; print(os.environ['PYTHONPATH'])")
    part.run(log)
    assert part.last_line == f"{ROOT}{os.pathsep}/brought"


def test_a_part_whose_packages_are_missing_is_one_line(log):
    part = python("benchmark", "raise SystemExit(1)", needs=("json", "no_such_module", "xdist_"))
    part.run(log)
    assert part.status == "left out"
    assert part.last_line == "needs no_such_module, xdist_: not installed"
    assert not log.exists()


def test_the_parts_share_one_deadline(monkeypatch, log):
    monkeypatch.setattr(parts, "GRACE_S", 1)
    monkeypatch.setattr(parts, "LEAST_S", 2)
    todo = [python(name, "import time; time.sleep(60)", limit_s=30) for name in "ab"]
    seen, begun = [], time.monotonic()
    parts.run_all(todo, log, 5, lambda: seen.append([part.status for part in todo]))
    assert time.monotonic() - begun < 6
    assert seen[-1] == ["over 4 s", "no time left"]
    assert len(seen) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_a_report_that_is_ended_ends_its_part(tmp_path, number):
    pid = tmp_path / "pid"
    code = (
        "import sys, parts, pathlib\n"
        "child = 'import os, sys, time; open(sys.argv[1], \"w\").write(str(os.getpid()));'\n"
        "child += 'time.sleep(60)'\n"
        "part = parts.Part('p', [sys.executable, '-c', child, sys.argv[1]], 60)\n"
        "try:\n"
        "    parts.run_all([part], pathlib.Path(sys.argv[1] + '.log'), 100, lambda: None)\n"
        "finally:\n"
        "    print(parts.line(part))\n"
    )
    report = subprocess.Popen(
        [sys.executable, "-c", code, str(pid)],
        cwd=ROOT / "benchmarks",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for _ in range(300):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.1)
    report.send_signal(number)
    output, _ = report.communicate(timeout=30)
    assert report.returncode == 1
    assert "cut short" in output
    assert f"ended from outside by {number.name}" in output
    assert "Traceback" not in output
    assert not alive(int(pid.read_text()))
