"""What carries the journal to MLflow, however long that takes."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from study.errors import LonglagError
from study.outcome import TrialKey
from study.tracking.entry import (
    CorruptError,
    Entry,
    StudyClosed,
    StudyOpened,
    TrialClosed,
    TrialInterrupted,
    TrialOpened,
    decode,
    written_ms,
)
from study.tracking.journal import READ_BYTES, JournalReader, Line, weights_folder
from study.tracking.recorder import Recorder, refused

FIRST_WAIT_S, LONGEST_WAIT_S, LAST_WAIT_S = 0.5, 30.0, 1.0
"""Pause after a failure, doubled after each further one in a row; never above the last of these while closing."""

EVERY_S = 1.0
"""Pause between two looks into the journal."""

HOLD_S, ASKED_S = 10.0, 300.0
"""How long metrics may wait for the end of their trial, and a trial that was asked, and has no run from before, for its
first metrics: MLflow's client takes nearly twice as long over a run whose metrics come singly as over one that it is
told of as a whole. A database that is told of dozens of runs at once takes a tenth of either.
"""

BATCH = 2048
"""Entries shipped together at most; half as many after a failure, twice as many after a success."""

MAX_REFUSALS = 3
"""How often an entry is offered to a server that answers but will not have it."""

REFUSED = "refused.jsonl"
"""The file beside the journal that keeps what MLflow has refused."""


class Shipper:
    """Ships journal lines, those of a trial in order, until MLflow has each; nothing that MLflow raises ends it.

    A line may be shipped twice, when the process dies before the cursor moves; the recorder makes that harmless. The
    lines of a trial that is being trained are held for a while, those of others pass them; the cursor waits for all.
    An entry that MLflow refuses as invalid, time and again, is put aside in ``REFUSED``, lest it hold up all others.
    """

    def __init__(self, spool: Path, recorder: Recorder, tell: Callable[[str | None], None]) -> None:
        """A shipper of the journal in the folder ``spool``, where nothing is opened yet.

        Args:
            spool: the journal's folder; refused entries are put aside there.
            recorder: what an entry becomes.
            tell: called after each look into the journal and each shipment, with what keeps entries from MLflow if
                anything does.
        """
        self._spool, self._recorder, self._tell = spool, recorder, tell
        self._closing, self._deadline_s = threading.Event(), math.inf
        self._n_together, self._n_refusals = BATCH, 0
        self._complaint = self._refusals()
        self._read: dict[int, Entry] = {}
        self._passed: set[int] = set()

    def close(self, timeout_s: float) -> None:
        """Have ``run`` return once all is shipped, or after this long and the call under way; for any thread."""
        self._deadline_s = time.monotonic() + timeout_s
        self._closing.set()

    def run(self) -> None:
        """Ship until closed."""
        reader = self._opened()
        if reader is not None:
            with closing(reader):
                self._ship_all(reader)

    def _opened(self) -> JournalReader | None:
        """The reading end of the journal, as soon as it can be had; None if that is not before it is late."""
        while not self._late:
            try:
                return JournalReader(self._spool)
            except (LonglagError, OSError) as error:
                self._tell(self._recorder.sentence(error))
                self._pause(LAST_WAIT_S)
        return None

    def _ship_all(self, reader: JournalReader) -> None:
        wait_s = FIRST_WAIT_S
        while not self._late:
            # Before the look, which then finds all that was appended before somebody closed.
            asked_to_close = self._closing.is_set()
            try:
                lines = reader.read()
                found_none = not lines
                self._ship(reader, lines)
                self._tell(self._complaint)
            except Exception as error:  # noqa: BLE001  (a study never dies of its tracking)
                self._recorder.forget()
                self._tell(self._recorder.sentence(error))
                self._pause(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            if asked_to_close and found_none:
                return
            wait_s = FIRST_WAIT_S
            self._closing.wait(EVERY_S)

    @property
    def _late(self) -> bool:
        return time.monotonic() >= self._deadline_s

    def _pause(self, seconds: float) -> None:
        """Wait; the wish to close calls for one more try at once, and for frequent ones after it."""
        if self._closing.is_set():
            time.sleep(min(seconds, LAST_WAIT_S))
        else:
            self._closing.wait(seconds)

    def _ship(self, reader: JournalReader, lines: list[Line]) -> None:
        """Ship what one look into the journal has found."""
        ripe = self._ripe(lines)
        while ripe and not self._late:
            n_lines = min(len(ripe), self._n_together)
            try:
                self._recorder.record([self._entry(line) for line in ripe[:n_lines]])
                self._n_together, self._n_refusals = min(2 * self._n_together, BATCH), 0
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
                self._put_aside(ripe[0], error)
            for line in ripe[:n_lines]:
                self._passed.add(line.end)
                self._read.pop(line.end, None)
            del ripe[:n_lines]
            self._tell(self._complaint)
        self._move_cursor(reader, lines)

    def _entry(self, line: Line) -> Entry:
        """What the line says; a line that is held is looked at more than once."""
        if line.end not in self._read:
            entry = decode(line.text)
            if isinstance(entry, TrialClosed) and entry.weights is not None and not Path(entry.weights).exists():
                # The spool has been moved since, and all that is in it.
                entry = replace(entry, weights=str(weights_folder(self._spool) / Path(entry.weights).name))
            self._read[line.end] = entry
        return self._read[line.end]

    def _ripe(self, lines: Sequence[Line]) -> list[Line]:
        """The lines to be shipped now: all but those of trials that have not ended, as long as all are young."""
        new = [line for line in lines if line.end not in self._passed]
        if self._closing.is_set() or sum(len(line.text) for line in lines) > READ_BYTES // 2:
            # What is held must not hide the rest of the journal from the next look.
            return new
        now_ms, known = time.time_ns() // 1_000_000, self._recorder.run_ids()
        told_of: dict[int, TrialKey] = {}
        held: dict[TrialKey, bool] = {}
        for line in new:
            with suppress(CorruptError):
                entry = self._entry(line)
                if not isinstance(entry, StudyOpened | StudyClosed):
                    told_of[line.end] = entry.key
                    asked = isinstance(entry, TrialOpened) and entry.key not in known
                    limit_s = ASKED_S if asked else HOLD_S
                    young = 0 <= now_ms - written_ms(entry) < 1000 * limit_s
                    ended = isinstance(entry, TrialClosed | TrialInterrupted)
                    held[entry.key] = held.get(entry.key, True) and young and not ended
        return [line for line in new if line.end not in told_of or not held[told_of[line.end]]]

    def _move_cursor(self, reader: JournalReader, lines: Sequence[Line]) -> None:
        """Move the cursor over as many lines from the first on as MLflow has.

        Last of all in a look: a full disk keeps it from moving, but nothing from MLflow.
        """
        done = list(takewhile(lambda line: line.end in self._passed, lines))
        if done:
            reader.advance(done[-1].end)
            self._passed -= {line.end for line in done}

    def _put_aside(self, line: Line, error: Exception) -> None:
        with (self._spool / REFUSED).open("ab") as file:
            file.write(line.text)
            file.flush()
            os.fsync(file.fileno())
        self._n_refusals = 0
        self._complaint = f"{self._refusals()}: {self._recorder.sentence(error)}"

    def _refusals(self) -> str | None:
        """How many entries were put aside, also by processes before this one; None if there are none."""
        place = self._spool / REFUSED
        if not place.exists():
            return None
        return f"{len(place.read_bytes().splitlines())} entries are kept in {place}"
