"""The process that carries a study's journal to MLflow; ``Shipping`` starts it and talks with it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from study.collector import imports_frozen, spare_imports
from study.outcome import TrialKey
from study.tracking.recorder import Recorder
from study.tracking.server import preload
from study.tracking.shipper import Shipper
from study.tracking.shipping import News


def main() -> None:
    """Do what the driver says, and tell it how that goes."""
    spare_imports()
    line: Connection = Connection(int(sys.argv[1]))
    # What MLflow may start shall not keep the driver waiting for the end of the line.
    os.set_inheritable(line.fileno(), False)
    with suppress(EOFError):
        uri = line.recv()
        # What fails here fails again, and is told, when MLflow is used.
        with suppress(Exception):
            preload(uri)
        task = line.recv()
        if task is None:
            return
        recorder = Recorder(uri, task.study)
        shipper = Shipper(task.spool, recorder, _teller(line, recorder))
        threading.Thread(target=_listen, args=(line, shipper), name="longlag-words", daemon=True).start()
        with imports_frozen():
            shipper.run()


def _teller(line: Connection, recorder: Recorder) -> Callable[[str | None], None]:
    """What tells the driver of errors, and of each run once."""
    told: dict[TrialKey, str] = {}

    def tell(error: str | None) -> None:
        fresh = {key: run_id for key, run_id in recorder.run_ids().items() if told.get(key) != run_id}
        told.update(fresh)
        with suppress(OSError):
            line.send(News(error=error, run_ids=fresh))

    return tell


def _listen(line: Connection, shipper: Shipper) -> None:
    """Wait for the word to close; without a driver there is none, and whoever follows it waits for this process."""
    with suppress(EOFError, OSError):
        while True:
            shipper.close(line.recv())
    os._exit(1)


if __name__ == "__main__":
    main()
