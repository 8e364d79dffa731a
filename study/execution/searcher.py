"""Ray Tune's view of the conductor: a search algorithm whose trials are stacks."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.result import DONE
from ray.tune.search import Searcher

from study.conductor import Conductor, stack_key
from study.errors import LonglagError
from study.execution.trainable import REPORT, SPOOL, STACK, TROUBLE
from study.plan import StackPlan

MAX_RESTARTS = 3
"""How often a stack is started again after its worker died; one that kills its worker each time has failed."""


class StackSearcher(Searcher):
    """Hands out the conductor's stacks and carries reports back.

    A worker for which there is no stack at the moment is told to wait: Tune keeps a single idle one, ends all others,
    and then takes seconds to start new ones.

    Tune ends the whole run on an exception in a searcher; here it stops the run instead, and is raised when all stacks
    have been put down in order.
    """

    def __init__(self, conductor: Conductor, spool: str, stop: threading.Event) -> None:
        """A searcher that says it is finished when the study is done or ``stop`` is set."""
        super().__init__()
        self.error: Exception | None = None
        self._conductor, self._spool, self._stop = conductor, spool, stop
        self._stacks: dict[str, StackPlan] = {}
        self._waiting: set[str] = set()
        self._started: set[str] = set()
        self._n_workers = 0
        self._n_given_up: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next stack as a Tune configuration, which may say to wait; FINISHED when there will be none.

        None where there is neither a stack nor a worker that would have to wait.
        """
        if self._conductor.done or self._stop.is_set():
            finished: str = Searcher.FINISHED
            return finished
        self.prepare()
        stack = self._conductor.next_stack()
        if stack is not None:
            self._stacks[trial_id] = stack
        elif len(self._stacks) + len(self._waiting) < self._n_workers:
            self._waiting.add(trial_id)
        else:
            return None
        self._n_workers = max(self._n_workers, len(self._stacks) + len(self._waiting))
        return {STACK: stack, SPOOL: self._spool}

    def awaited(self, trial_id: str) -> bool:
        """Whether a worker has waited long enough: for a stack that there is now, or for the study's end.

        A stack that was handed out may lack the very place in which the worker waits: there are fewer places than was
        asked for, or one was lost.
        """
        wanted = self._conductor.has_stack or not self._started.issuperset(self._stacks)
        return trial_id in self._waiting and (wanted or self._conductor.done or self._stop.is_set())

    def start(self, trial_id: str) -> None:
        """A stack has found a worker."""
        self._started.add(trial_id)

    def restart(self, trial_id: str) -> None:
        """A stack has lost its worker, and waits for another."""
        self._started.discard(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a report on."""
        self._guarded(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass the last report on; what an error amounts to, ``lose`` is told."""
        if result:
            self._guarded(trial_id, result)
        if not error:
            self._forget(trial_id)

    def lose(self, trial_id: str, n_deaths: int, error: BaseException | None) -> None:
        """Tune has given a stack up: it is handed out again, or has failed if its worker died too often.

        Tune takes a single death for two, and the second for the last, where two tasks of the worker were under way.
        What raises an OSError there, a checkpoint for which there is no room, tells of the machine: it stops the study.

        Args:
            trial_id: which one.
            n_deaths: how often its worker died, as Tune counts.
            error: of its last death, if it is known.
        """
        stack = self._forget(trial_id)
        if stack is None or self._stop.is_set():
            return
        if isinstance(error, OSError):
            self._give_up(LonglagError(f"a worker cannot go on: {error}"))
            return
        self._n_given_up[stack_key(stack)] += 1
        try:
            if n_deaths > MAX_RESTARTS or self._n_given_up[stack_key(stack)] > MAX_RESTARTS:
                lines = str(error or "what is not known").split("\n")
                self._conductor.fail(stack, f"its worker died more often than a stack is restarted, of: {lines[0]}")
            else:
                self._conductor.put_back(stack)
        except Exception as raised:  # noqa: BLE001
            self._give_up(raised)

    def prepare(self) -> None:
        """Have the next stacks asked for, if none is left."""
        if self._stop.is_set():
            return
        try:
            self._conductor.catch_up()
        except Exception as error:  # noqa: BLE001
            self._give_up(error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the search storage is the one source of truth, and Tune's own files are a cache."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as ``save``."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing either: Tune pickles what it is given into a file that is never read back."""
        return {}

    def _guarded(self, trial_id: str, result: dict[str, Any]) -> None:
        report, trouble = result.get(REPORT), result.get(TROUBLE)
        if trouble is not None:
            error = LonglagError(trouble.sentence)
            error.add_note(trouble.traceback)
            self._give_up(self.error or error)
        if report is None or self.error is not None:
            return
        try:
            self._conductor.report(self._stacks[trial_id], report)
        except Exception as error:  # noqa: BLE001
            self._give_up(error)

    def _forget(self, trial_id: str) -> StackPlan | None:
        """What Tune has ended, whatever it was."""
        self._waiting.discard(trial_id)
        self._started.discard(trial_id)
        return self._stacks.pop(trial_id, None)

    def _give_up(self, error: Exception) -> None:
        self.error = error
        self._stop.set()


class Events(Callback):
    """What the searcher is not told of steps and stacks, and what Tune need not keep after them."""

    def __init__(self, searcher: StackSearcher) -> None:
        """The events of this searcher's stacks."""
        self._searcher = searcher

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """Free workers have been given what there was: what comes next is asked for while they train."""
        self._searcher.prepare()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """It has a worker."""
        self._searcher.start(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Its worker has died, and it will have another."""
        self._searcher.restart(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """How often its worker died decides what becomes of it."""
        self._searcher.lose(trial.trial_id, trial.num_failures, _last_error(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """The last report has been passed on; Tune keeps its trials to the end, of this one only a shell."""
        # Without any entry Tune would ask the worker for another result.
        last: dict[str, Any] = trial.last_result
        for name in last.keys() - {DONE}:
            del last[name]
        checkpoints = trial.run_metadata.checkpoint_manager.best_checkpoint_results
        reports = [checkpoint.metrics for checkpoint in checkpoints]
        for held in (*reports, trial.config, trial.evaluated_params, trial.metric_analysis, trial.metric_n_steps):
            held.clear()
        trial.experiment_tag = ""
        # The text of all this.
        trial.run_metadata.invalidate_cache()


class Stops(Stopper):
    """Ends all stacks as soon as an event is set, and a worker's waiting as soon as it is over."""

    def __init__(self, searcher: StackSearcher, stop: threading.Event) -> None:
        """A stopper for this event and this searcher's workers."""
        self._searcher, self._stop = searcher, stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single stack is stopped from outside, but a worker that waits is."""
        return self._searcher.awaited(trial_id)

    def stop_all(self) -> bool:
        """Whether the event is set."""
        return self._stop.is_set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}


def _last_error(trial: Trial) -> BaseException | None:
    """What Tune has written down as the last error of a trial, without Ray's own around it; None if it could not."""
    if trial.pickled_error_file is None:
        return None
    try:
        error: BaseException = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, EOFError, cloudpickle.pickle.UnpicklingError):
        return None
    return getattr(error, "cause", error)
