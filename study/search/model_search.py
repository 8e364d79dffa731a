"""The search of one model: one Optuna study, asked and told in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from study.outcome import Outcome, Status, TrialKey
from study.plan import ModelPlan, Parameter, SearchPlan
from study.record import TrialRecord
from study.search.history import PARAMETERS, SEED, History
from study.search.rows import enter, keep, settle
from study.search.storage import every_trial, one_transaction, persist
from study.search.verdict import Verdict

OUTCOME, RUNS = "longlag:outcome", "longlag:runs"

_STATUS = {
    TrialState.WAITING: Status.WAITING,
    TrialState.RUNNING: Status.RUNNING,
    TrialState.COMPLETE: Status.COMPLETE,
    TrialState.PRUNED: Status.PRUNED,
    TrialState.FAIL: Status.FAILED,
}


class ModelSearch:
    """Asks for trials and is told their outcomes; everything is in the storage when a call returns.

    The points come from a copy of the study in memory, its history; the trials with all their parameters then enter the
    storage in one transaction, so that a crash leaves no trial half made. Each number has a sampler of its own, seeded
    by number: a search that is killed and opened again asks the same.

    Only one ModelSearch may write to a study at a time; the lease in the study's header sees to that.
    """

    def __init__(self, storage: RDBStorage, study: str, seed: int, search: SearchPlan, model: ModelPlan) -> None:
        """Open the search, creating it if it is new; trials that another owner left open are adopted as running."""
        self.model = model
        self._study, self._storage = study, storage
        name = f"{study}/{model.name}"
        persist(
            lambda: optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
        )
        self._study_id = persist(lambda: storage.get_study_id_from_name(name))
        self._ids: dict[int, int] = {}
        self._untold: dict[int, Outcome] = {}
        for trial in self._in_state(TrialState.WAITING):
            self._set_state(trial.number, TrialState.RUNNING)
        self._history = History(search, model, seed, self._all_trials())
        for trial in self._in_state(TrialState.RUNNING):
            outcome = _outcome(trial)
            if outcome is not None:
                self._untold[trial.number] = outcome

    def ask(self, n_trials: int) -> list[TrialRecord]:
        """More trials, different from each other and all before them where the space allows."""
        first = len(self._history)
        trials = [self._history.ask() for _ in range(n_trials)]

        def write() -> None:
            with one_transaction(self._storage):
                ids = enter(self._storage, self._study_id, trials, first)
            self._ids.update(enumerate(ids, start=first))

        persist(write)
        return [read_record(self._key(first + n), trial, {}) for n, trial in enumerate(trials)]

    def save(self, outcomes: Mapping[int, Outcome]) -> None:
        """Keep the outcomes of trials that have ended, by number, before they are told in their turn."""
        texts = {self._trial_id(number): outcome.to_json() for number, outcome in outcomes.items()}

        def write() -> None:
            with one_transaction(self._storage):
                keep(self._storage, OUTCOME, texts)

        persist(write)
        self._untold.update(outcomes)

    def tell(self, numbers: Iterable[int]) -> None:
        """Settle trials with their saved outcomes, so that later asks learn from them; but not what is settled."""
        due = [number for number in numbers if not self._history.settled(number)]
        if not due:
            return
        verdicts = {self._trial_id(number): Verdict.of_outcome(self._untold[number]) for number in due}

        def write() -> None:
            with one_transaction(self._storage):
                settle(self._storage, verdicts)

        persist(write)
        for number in due:
            self._history.tell(number, self._untold.pop(number))
            del self._ids[number]

    def release(self) -> None:
        """Give up the open trials; whoever opens the search next adopts them."""
        for trial in self._in_state(TrialState.RUNNING):
            self._set_state(trial.number, TrialState.WAITING)

    def records(self) -> list[TrialRecord]:
        """All trials by number."""
        attributes = self._attributes()
        return [read_record(self._key(trial.number), trial, attributes) for trial in self._all_trials()]

    def _all_trials(self) -> Iterator[FrozenTrial]:
        return every_trial(self._storage, self._study_id)

    def _in_state(self, state: TrialState) -> list[FrozenTrial]:
        return persist(lambda: self._storage.get_all_trials(self._study_id, deepcopy=False, states=(state,)))

    def _attributes(self) -> dict[str, Any]:
        return persist(lambda: self._storage.get_study_user_attrs(self._study_id))

    def _trial_id(self, number: int) -> int:
        """The storage's id of a trial that is not told."""
        if number not in self._ids:
            self._ids[number] = persist(
                lambda: self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            )
        return self._ids[number]

    def _set_state(self, number: int, state: TrialState) -> None:
        trial_id = self._trial_id(number)
        persist(lambda: self._storage.set_trial_state_values(trial_id, state))

    def _key(self, number: int) -> TrialKey:
        return TrialKey(study=self._study, model=self.model.name, number=number)


def read_record(key: TrialKey, trial: FrozenTrial, attributes: Mapping[str, Any]) -> TrialRecord:
    """A trial as the rest of the program knows it; ``attributes`` are those of its Optuna study."""
    parameters: dict[str, Parameter] = trial.user_attrs[PARAMETERS]
    return TrialRecord(
        key=key,
        parameters=parameters,
        seed=trial.user_attrs[SEED],
        status=_STATUS[trial.state],
        outcome=_outcome(trial),
        run_id=attributes.get(RUNS, {}).get(str(key.number)),
    )


def _outcome(trial: FrozenTrial) -> Outcome | None:
    saved = trial.user_attrs.get(OUTCOME)
    return None if saved is None else Outcome.from_json(saved)
