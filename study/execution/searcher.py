"""Ray Tune's view of the conductor: a search algorithm whose trials are stacks."""

from __future__ import annotations

import threading
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from study.conductor import Conductor
from study.execution.trainable import REPORT, SPOOL, STACK
from study.plan import StackPlan


class StackSearcher(Searcher):
    """Hands out the conductor's stacks and carries reports back.

    Tune ends the whole run on an exception in a searcher; here it stops the run instead, and is raised when all stacks
    have been put down in order.
    """

    def __init__(self, conductor: Conductor, spool: str, stop: threading.Event) -> None:
        """A searcher that says it is finished when the study is done or ``stop`` is set."""
        super().__init__()
        self.error: Exception | None = None
        self._conductor, self._spool, self._stop = conductor, spool, stop
        self._stacks: dict[str, StackPlan] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next stack as a Tune configuration, None while there is none, FINISHED when there will be none."""
        if self._conductor.done or self._stop.is_set():
            finished: str = Searcher.FINISHED
            return finished
        stack = self._conductor.next_stack()
        if stack is None:
            return None
        self._stacks[trial_id] = stack
        return {STACK: stack, SPOOL: self._spool}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a report on."""
        self._guarded(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the last report on; a stack whose worker died too often has failed, unless the study is stopping."""
        if result:
            self._guarded(trial_id, result)
        if error and not self._stop.is_set():
            self._fail(trial_id)
        self._stacks.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the search storage is the one source of truth, and Tune's own files are a cache."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as ``save``."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing either: Tune pickles what it is given into a file that is never read back."""
        return {}

    def _guarded(self, trial_id: str, result: dict[str, Any]) -> None:
        report = result.get(REPORT)
        if report is None or self.error is not None:
            return
        try:
            self._conductor.report(self._stacks[trial_id], report)
        except Exception as error:  # noqa: BLE001
            self._give_up(error)

    def _fail(self, trial_id: str) -> None:
        try:
            self._conductor.fail(self._stacks[trial_id], "its worker died more often than a stack is restarted")
        except Exception as error:  # noqa: BLE001
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.error = error
        self._stop.set()


class Forget(Callback):
    """Lets go of the last report of a stack that has ended: Tune keeps its trials, and writes them, to the end."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """The report has been passed on."""
        trial.last_result.pop(REPORT, None)


class StopAll(Stopper):
    """Ends all stacks as soon as an event is set."""

    def __init__(self, stop: threading.Event) -> None:
        """A stopper for this event."""
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single stack is stopped from outside."""
        return False

    def stop_all(self) -> bool:
        """Whether the event is set."""
        return self._stop.is_set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}
