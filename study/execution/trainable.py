"""A stack as Ray Tune sees it: one trial, trained in steps, checkpointed and restarted."""

from __future__ import annotations

import os
import socket
import time
import traceback
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.result import DONE, SHOULD_CHECKPOINT
from safetensors.torch import save

from study.conductor import Departed, StackReport
from study.extension import extend_registries
from study.outcome import failed_outcome
from study.plan import StackPlan
from study.training.bracket import Bracket, Departure
from study.training.process import prepare_process

STACK, SPOOL, REPORT, TROUBLE = "stack", "spool", "report", "trouble"
"""Keys of a Tune trial's configuration and of its results."""

CHECKPOINT_S = 20.0
"""Seconds of training that a dead worker may cost."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 0.5
"""How often a worker without a stack shows itself to the driver, which may have one: after pauses that double."""

N_WRITERS = 16
"""Files that are written at a time: until a disk has confirmed one takes as long as until it has confirmed several."""

_FILE = "stack.pt"


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a worker's machine cannot go on, and where that came up."""

    sentence: str
    traceback: str


class StackTrainable(tune.Trainable):
    """Trains one stack, or waits where there is none; a step goes to the bracket's next report.

    Departed members leave their weights in the spool.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare for the stack in ``config``; what can fail by the user's doing waits for the first step."""
        prepare_process()
        self._plan: StackPlan | None = config[STACK]
        self._spool = Path(config[SPOOL])
        self._bracket: Bracket | None = None
        self._saved_s, self._wait_s = time.monotonic(), FIRST_WAIT_S

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another stack in the same process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report. An exception becomes the outcome of every member that has not left yet.

        Not so an OSError, of a full disk or missing data: it tells of the machine and not of the members, and is passed
        on as trouble.
        """
        if self._plan is None:
            time.sleep(self._wait_s)
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            return {REPORT: None, DONE: False}
        try:
            if self._bracket is None:
                extend_registries()
                self._bracket = Bracket(self._plan)
            progress = self._bracket.advance()
            report = StackReport(
                n_updates=progress.n_updates,
                n_member_updates=progress.n_member_updates,
                seconds=progress.seconds,
                metrics=progress.metrics,
                departed=self._drop_all(self._plan.model, progress.departures),
            )
        except OSError as error:
            sentence = f"a worker on {socket.gethostname()} cannot go on: {error}"
            trouble = Trouble(sentence=sentence, traceback=traceback.format_exc())
            return {REPORT: None, TROUBLE: trouble, DONE: True}
        except Exception:  # noqa: BLE001
            outcome = failed_outcome(traceback.format_exc())
            departed = [Departed(number=m.number, outcome=outcome, weights=None) for m in self._plan.members]
            report = StackReport(n_updates=0, n_member_updates=0, seconds={}, metrics={}, departed=departed)
            return {REPORT: report, DONE: True}
        due = time.monotonic() - self._saved_s > CHECKPOINT_S and not self._bracket.done
        return {REPORT: report, DONE: self._bracket.done, SHOULD_CHECKPOINT: due}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the bracket's state, if there is one yet."""
        if self._bracket is not None:
            (Path(checkpoint_dir) / _FILE).write_bytes(self._bracket.to_bytes())
        self._saved_s = time.monotonic()

    def load_checkpoint(self, checkpoint: str) -> None:
        """Go on from what ``save_checkpoint`` wrote."""
        path = Path(checkpoint) / _FILE
        if self._plan is not None and path.exists():
            extend_registries()
            self._bracket = Bracket.from_bytes(self._plan, path.read_bytes())

    def _drop_all(self, model: str, departures: Sequence[Departure]) -> list[Departed]:
        """Leave the members' weights where the driver finds them."""
        try:
            with ThreadPoolExecutor(N_WRITERS) as writers:
                return list(writers.map(partial(self._drop, model), departures))
        except RuntimeError as error:
            # Of a machine that allows no more threads.
            raise OSError(f"weights cannot be written: {error}") from error

    def _drop(self, model: str, departure: Departure) -> Departed:
        """Leave a member's weights in the spool, under a name that no second attempt reuses."""
        path = self._spool / f"{model}-{departure.number}-{uuid.uuid4().hex}.safetensors"
        half_written = path.with_suffix(".part")
        with half_written.open("wb") as file:
            file.write(save(departure.weights))
            file.flush()
            os.fsync(file.fileno())
        half_written.rename(path)
        return Departed(number=departure.number, outcome=departure.outcome, weights=path)
