"""Holding a study while it runs: signs of life, requests to stop, signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from study.search.catalogue import Catalogue, Owner

BEAT_S = 2.0
"""Seconds between two signs of life of a running study, and between two looks for a request to stop."""


@contextmanager
def beating(catalogue: Catalogue, name: str, owner: Owner, stop: threading.Event) -> Iterator[None]:
    """Signs of life while the body runs; a request to stop, or the loss of the lease, sets ``stop``."""
    over = threading.Event()
    failures: list[Exception] = []

    def beat() -> None:
        while not over.wait(BEAT_S):
            try:
                catalogue.beat(name, owner)
                if catalogue.stop_requested(name):
                    stop.set()
            except Exception as error:  # noqa: BLE001  (the thread's edge: raised by the one who waits)
                failures.append(error)
                stop.set()
                return

    thread = threading.Thread(target=beat, name="longlag-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


def ending_signals() -> list[signal.Signals]:
    """What asks a process to end: SIGTERM, and the loss of its terminal unless that is ignored, as nohup has it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP set ``stop``; a second one interrupts. Elsewhere than in the main thread: nothing.

    An exception in the midst of an import can be lost, or leave a library half made: whoever runs a study enters this
    before it imports one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, *ending_signals())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
