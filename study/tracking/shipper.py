"""The thread that carries the journal to MLflow, however long that takes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from study.tracking.entry import CorruptError, decode
from study.tracking.journal import Journal, Line
from study.tracking.recorder import Recorder, refused

FIRST_WAIT_S, LONGEST_WAIT_S, LAST_WAIT_S = 0.5, 30.0, 1.0
"""Pause after a failure, doubled after each further one in a row; never above the last of these while closing."""

EVERY_S = 10.0
"""Pause between two shipments: a run whose metrics come together costs a third of one whose metrics come singly."""

BATCH = 512
"""Entries shipped together at most; half as many after a failure, twice as many after a success."""

MAX_REFUSALS = 3
"""How often an entry is offered to a server that answers but will not have it."""


class Shipper:
    """Ships journal lines in order and is done with each once MLflow has it; nothing it meets is raised.

    A line may be shipped twice, when the process dies before the cursor moves; the recorder makes that harmless. An
    entry that MLflow refuses as invalid, time and again, is put aside in ``refused.jsonl``, lest it hold up all others.
    """

    def __init__(self, journal: Journal, recorder: Recorder, aside: Path) -> None:
        """Start the thread; ``aside`` is the file of refused entries."""
        self._journal, self._recorder, self._aside = journal, recorder, aside
        self._wake, self._closing, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._n_together, self._n_refusals, self._n_aside = BATCH, 0, 0
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="longlag-tracking", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to ship."""
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Ship what is left, for at most this long, and end the thread; one that is stuck in a call ends after it."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._abandoned.set()

    def _run(self) -> None:
        wait_s, complaint = FIRST_WAIT_S, None
        while not self._abandoned.is_set():
            self._wake.clear()
            try:
                complaint = self._ship() or complaint
                self.last_error, wait_s = complaint, FIRST_WAIT_S
            except Exception as error:  # noqa: BLE001  (the thread's edge: a study never dies of its tracking)
                self.last_error = self._recorder.sentence(error)
                self._recorder.forget()
                self._pause(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            if self._journal.n_pending == 0:
                if self._closing.is_set():
                    return
                self._wake.wait()
            self._closing.wait(EVERY_S)

    def _pause(self, seconds: float) -> None:
        """Wait; the wish to close calls for one more try at once, and for frequent ones after it."""
        if self._closing.is_set():
            self._abandoned.wait(min(seconds, LAST_WAIT_S))
        else:
            self._closing.wait(seconds)

    def _ship(self) -> str | None:
        """Ship what one look into the journal finds; a complaint if some of it had to be put aside."""
        complaint = None
        lines = self._journal.read()
        while lines and not self._abandoned.is_set():
            n_lines = min(len(lines), self._n_together)
            try:
                self._recorder.record([decode(line.text) for line in lines[:n_lines]])
                self._n_together, self._n_refusals = min(2 * n_lines, BATCH), 0
            except Exception as error:
                # Fewer, to get some of them through, and to find out which one it is.
                self._n_together = max(1, n_lines // 2)
                corrupt = isinstance(error, CorruptError)
                if n_lines > 1 and (corrupt or refused(error)):
                    self._recorder.forget()
                    continue
                self._n_refusals += refused(error)
                if not corrupt and self._n_refusals < MAX_REFUSALS:
                    raise
                self._put_aside(lines[0])
                complaint = f"{self._n_aside} entries are kept in {self._aside}: {self._recorder.sentence(error)}"
            self._journal.advance(lines[n_lines - 1].end, n_lines)
            del lines[:n_lines]
        return complaint

    def _put_aside(self, line: Line) -> None:
        with self._aside.open("ab") as file:
            file.write(line.text)
            file.flush()
            os.fsync(file.fileno())
        self._n_aside += 1
        self._n_refusals = 0
