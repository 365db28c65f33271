"""Processes that run jobs side by side, each on a device of its own.

A process that dies takes its job with it and nothing else: another takes its place.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from .jobs import CellError, Job, attempt, outcome

# How often a worker looks whether the study is still there, in seconds.
_WATCH = 1.0


class Worker:
    """One process, which starts with its first job, and the job it is at."""

    process: BaseProcess | None = None
    connection: Connection

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads

    def submit(self, job: Job) -> None:
        """Begin a job."""
        if self.process is None:
            self._start()
        try:
            self.connection.send((job, self.device))
        except OSError:  # it died while it had nothing to do
            self._end()
            self._start()
            self.connection.send((job, self.device))

    def finished(self) -> bool:
        """Say whether the job has ended, one way or the other."""
        return self.connection.poll()

    def result(self) -> Any:
        """Wait for the job and return its result, or raise `CellError`."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):  # the latter where it died before it had read the job
            code = self._end()
            reason = ", killed, perhaps for want of memory" if code == -signal.SIGKILL else ""
            raise CellError(f"its process ended with exit code {code}{reason}", "") from None
        return outcome(*answer)

    def stop(self) -> None:
        """End the process; a training saves where it is."""
        if self.process is not None:
            self.process.terminate()
            self._end()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share CUDA and thread pools
        self.connection, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, os.getpid(), self.threads))
        self.process.start()
        far.close()  # so that the end of the process is the end of the pipe

    def _end(self) -> int | None:
        """Wait for the end of the process and return its exit code."""
        assert self.process is not None
        # First, as SIGTERM is lost on a training that has just ended; this is not.
        self.connection.close()
        self.process.join()
        code = self.process.exitcode
        self.process = None
        return code


def _serve(connection: Connection, parent: int, threads: int) -> None:
    """Run jobs until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which ends us
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if threads:
        torch.set_num_threads(threads)
    while True:
        try:
            job, device = connection.recv()
            connection.send(attempt(job, device))
        except (EOFError, OSError):
            return


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, however that went."""
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)
