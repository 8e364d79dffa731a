"""The driver's hold on the process that carries a study's journal to MLflow."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Self

from study.outcome import TrialKey
from study.tracking.server import masked
from study.tracking.shipper import FIRST_WAIT_S, LAST_WAIT_S, LONGEST_WAIT_S


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a process is to ship: the journal in a folder, to the runs of a study."""

    spool: Path
    study: str


Words = str | Task | float | None
"""What the driver says, in this order: the address of MLflow, what to ship or None for nothing, and how long to go on
when it closes.
"""


@dataclass(frozen=True, kw_only=True)
class News:
    """What a process tells: what keeps entries from MLflow, and the runs that have become known."""

    error: str | None
    run_ids: dict[TrialKey, str]


class Shipping:
    """A process beside the driver, so that neither MLflow's work nor its memory is the driver's.

    It imports MLflow at once, which takes two or three seconds, and waits for ``begin``. Should it die, another takes
    its place. It dies with the driver, however that ends; a terminal's Ctrl-C is not meant for it. What it prints is
    kept from the terminal, which belongs to the study's live table.
    """

    def __init__(self, uri: str) -> None:
        """Start the process; ``uri`` is the address of MLflow."""
        self._uri = uri
        self._task: Task | None = None
        self._run_ids: dict[TrialKey, str] = {}
        self._deadline_s = 0.0
        self._lock, self._closing, self._over = threading.Lock(), threading.Event(), threading.Event()
        self.last_error: str | None = None
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  (the thread closes it)
        self._start()
        self._thread = threading.Thread(target=self._attend, name="longlag-shipping", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close(0)

    def begin(self, spool: Path, study: str) -> None:
        """Ship the journal in the folder ``spool``, which exists, to the runs of a study."""
        with self._lock:
            self._task = Task(spool=spool, study=study)
            self._say(self._task)

    def run_ids(self) -> dict[TrialKey, str]:
        """The runs of the trials, as far as they are known yet."""
        return self._run_ids.copy()

    def close(self, timeout_s: float) -> None:
        """End the process: when all is shipped that the journal holds, or after this long at the latest.

        One that was given nothing ends by itself when it is through with its imports.
        """
        with self._lock:
            self._deadline_s = time.monotonic() + timeout_s
            self._closing.set()
            self._say(None if self._task is None else timeout_s)
            if self._task is None:
                self._over.set()
                return
        if timeout_s > 0:
            # It ends by itself unless it is stuck in a call.
            self._thread.join(timeout_s + LAST_WAIT_S)
        with self._lock:
            self._over.set()
            self._process.kill()
        self._thread.join()

    def _start(self) -> None:
        """Start a process that finds modules where this one does, and tell it all that has been said so far."""
        self._line, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __package__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._printed,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                pass_fds=[theirs.fileno()],
                # Of its own, for a terminal sends Ctrl-C to all processes of one.
                start_new_session=True,
            )
        self._say(self._uri)
        if self._task is not None:
            self._say(self._task)
            if self._closing.is_set():
                self._say(self._deadline_s - time.monotonic())

    def _say(self, words: Words) -> None:
        # A process that has just died is followed by one that is told all again.
        with suppress(OSError):
            self._line.send(words)

    def _attend(self) -> None:
        """Take in what the process tells, and put another in its place should it die."""
        wait_s = FIRST_WAIT_S
        with self._printed:
            while True:
                with suppress(EOFError, OSError):
                    while True:
                        news: News = self._line.recv()
                        self._run_ids |= news.run_ids
                        self.last_error = news.error
                        wait_s = FIRST_WAIT_S
                status = self._process.wait()
                with self._lock:
                    self._line.close()
                if self._over.is_set() or (self._closing.is_set() and status == 0):
                    return
                words = self._last_words()
                # Who was killed has said nothing about that.
                self.last_error = f"tracking: its process has ended with status {status}{words if status > 0 else ''}"
                if self._closing.is_set():
                    self._over.wait(min(wait_s, LAST_WAIT_S))
                else:
                    self._closing.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                with self._lock:
                    if self._over.is_set():
                        return
                    # Without another process there is nothing to be heard, and the next round tries again.
                    with suppress(OSError):
                        self._start()

    def _last_words(self) -> str:
        """The last line that was printed, in parentheses; a traceback's names the error."""
        end = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, end - 4096))
        lines = self._printed.read().decode(errors="replace").splitlines()
        self._printed.seek(0)
        self._printed.truncate()
        return next((f" ({masked(line, self._uri)[:200]})" for line in reversed(lines) if line.strip()), "")
