"""The search of one model: one Optuna study, asked and told in a fixed order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.outcome import Outcome, Status, TrialKey
from study.plan import ModelPlan, Parameter, SearchPlan
from study.record import TrialRecord
from study.search.sampler import random_sampler, sampler_for
from study.search.space import suggest
from study.search.storage import persist
from study.seeds import derive

PARAMETERS, SEED, OUTCOME, RUNS = "longlag:parameters", "longlag:seed", "longlag:outcome", "longlag:runs"
MAX_REDRAWS = 100
"""Draws after which a point that was drawn before is accepted: the space has fewer points than trials."""

_STATUS = {
    TrialState.WAITING: Status.WAITING,
    TrialState.RUNNING: Status.RUNNING,
    TrialState.COMPLETE: Status.COMPLETE,
    TrialState.PRUNED: Status.PRUNED,
    TrialState.FAIL: Status.FAILED,
}


class ModelSearch:
    """Asks for trials and is told their outcomes; everything is in the storage when a call returns.

    The points come from a copy of the study in memory, asked through Optuna's ordinary interface; the trial with all
    its parameters then enters the storage in one transaction, so that a crash leaves no trial half made. Each number
    has a sampler of its own, seeded by number: a search that is killed and opened again asks the same.

    Only one ModelSearch may write to a study at a time; the lease in the study's header sees to that.
    """

    def __init__(self, storage: BaseStorage, study: str, seed: int, search: SearchPlan, model: ModelPlan) -> None:
        """Open the search, creating it if it is new; trials that another owner left open are adopted as running."""
        self.model = model
        self._study, self._seed, self._search = study, seed, search
        self._storage = storage
        self._durable = persist(
            lambda: optuna.create_study(
                storage=storage, study_name=f"{study}/{model.name}", direction="maximize", load_if_exists=True
            )
        )
        self._study_id = persist(lambda: storage.get_study_id_from_name(self._durable.study_name))
        trials = self._trials()
        for trial in trials:
            if trial.state is TrialState.WAITING:
                self._set_state(trial.number, TrialState.RUNNING)
        self._outcomes = {trial.number: outcome for trial in trials if (outcome := _outcome(trial)) is not None}
        self._points = [_point(trial) for trial in trials]
        self._copy_storage = InMemoryStorage()
        self._copy = self._mirror()

    def ask(self) -> TrialRecord:
        """One more trial, different from all before it where the space allows."""
        number = len(self._points)
        template = self._draw(number)
        attempted = False

        def write() -> None:
            nonlocal attempted
            # The transaction of an earlier attempt may have gone through although its answer was lost.
            if not attempted or len(self._trials()) == number:
                attempted = True
                self._durable.add_trial(template)

        persist(write)
        self._points.append(_point(template))
        return read_record(self._key(number), template, {})

    def save(self, number: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial that has ended, before it is told in its turn."""
        trial_id = self._trial_id(number)
        persist(lambda: self._storage.set_trial_user_attr(trial_id, OUTCOME, outcome.to_json()))
        self._outcomes[number] = outcome

    def tell(self, number: int) -> None:
        """Settle a trial with its saved outcome, so that later asks learn from it."""
        outcome, trial_id = self._outcomes[number], self._trial_id(number)
        persist(lambda: _settle(self._storage, trial_id, outcome))
        copied = self._copy_storage.get_study_id_from_name(self._copy.study_name)
        number_in_copy = self._copy_storage.get_trial_id_from_study_id_trial_number(copied, number)
        _settle(self._copy_storage, number_in_copy, outcome)

    def release(self) -> None:
        """Give up the open trials; whoever opens the search next adopts them."""
        for trial in self._trials():
            if trial.state is TrialState.RUNNING:
                self._set_state(trial.number, TrialState.WAITING)

    def attach_runs(self, run_ids: Mapping[int, str]) -> None:
        """Keep the tracking store's runs of trials, by number."""
        held = persist(lambda: self._durable.user_attrs).get(RUNS, {})
        runs = held | {str(number): run_id for number, run_id in run_ids.items()}
        persist(lambda: self._durable.set_user_attr(RUNS, runs))

    def records(self) -> list[TrialRecord]:
        """All trials by number."""
        attributes = persist(lambda: self._durable.user_attrs)
        return [read_record(self._key(trial.number), trial, attributes) for trial in self._trials()]

    def _draw(self, number: int) -> FrozenTrial:
        """A trial of this number, in the copy as well."""
        seed = derive(self._seed, "ask", self.model.name, number)
        self._copy.sampler = sampler_for(self._search, self.model, number, seed)
        earlier = set(self._points)
        template = self._template(self._copy, number)
        if self._search.sampler == "grid" or _point(template) not in earlier:
            return template
        for attempt in range(MAX_REDRAWS):
            blank = optuna.create_study(sampler=random_sampler(derive(seed, "redraw", attempt)))
            template = self._template(blank, number)
            if _point(template) not in earlier:
                break
        self._copy = self._mirror()
        self._copy.add_trial(template)
        return template

    def _template(self, study: optuna.Study, number: int) -> FrozenTrial:
        """Ask a study for a trial, and describe it whole."""
        asked = study.ask()
        parameters = suggest(asked, self.model)
        fixed = self.model.member_seed
        seed = derive(self._seed, "member", self.model.name, number) if fixed is None else fixed
        asked.set_user_attr(PARAMETERS, parameters)
        asked.set_user_attr(SEED, seed)
        drawn = study.get_trials(deepcopy=False)[asked.number]
        return create_trial(
            state=TrialState.RUNNING,
            params=drawn.params,
            distributions=drawn.distributions,
            user_attrs=drawn.user_attrs,
            # TPE keeps there what it drew jointly, and reads it while the trial runs.
            system_attrs=drawn.system_attrs,
        )

    def _mirror(self) -> optuna.Study:
        study = optuna.create_study(storage=self._copy_storage, direction="maximize")
        study.add_trials(self._trials())
        return study

    def _trials(self) -> list[FrozenTrial]:
        return persist(lambda: self._durable.get_trials(deepcopy=False))

    def _trial_id(self, number: int) -> int:
        return persist(lambda: self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number))

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


def _settle(storage: BaseStorage, trial_id: int, outcome: Outcome) -> None:
    """The one place that decides which Optuna state and value an outcome becomes; nothing if it is settled already."""
    with suppress(UpdateFinishedTrialError):
        if outcome.status is Status.FAILED:
            storage.set_trial_state_values(trial_id, TrialState.FAIL)
        elif outcome.status is Status.PRUNED:
            # A pruned trial has no value in Optuna; samplers rank it by its last step and what it reported there.
            storage.set_trial_intermediate_value(trial_id, outcome.n_updates, outcome.value)
            storage.set_trial_state_values(trial_id, TrialState.PRUNED)
        else:
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [outcome.value])


def _point(trial: FrozenTrial) -> str:
    return json.dumps(trial.user_attrs[PARAMETERS], sort_keys=True)
