"""What a sampler learns from: the trials of one model in memory, of which it is shown a bounded number."""

from __future__ import annotations

import copy
import json
import math
from bisect import insort
from collections.abc import Container, Sequence
from contextlib import suppress

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.outcome import Outcome, Status
from study.plan import ModelPlan, SearchPlan
from study.search.sampler import random_sampler, sampler_for
from study.search.space import suggest
from study.seeds import derive

PARAMETERS, SEED = "longlag:parameters", "longlag:seed"

MAX_REDRAWS = 100
"""Draws after which a point that was drawn before is accepted: the space has fewer points than trials."""

MAX_LEARNED = 500
"""Ended trials that are learned from at most: what TPE costs for an ask is linear in them, some 10 us for each."""

N_GOOD = 25
"""Trials that TPE takes for good ones at most."""


class History:
    """The trials of one model, as far as drawing the next one needs them.

    The sampler is shown the running trials and at most ``MAX_LEARNED`` ended ones, or as many as the start-up has where
    that is more: the ``N_GOOD`` best, and the latest of the others. So TPE's density of good trials is the one that all
    trials give; its density of the others has the weights and widths of those that are shown, and lacks those that it
    would weigh least, for its weights rise with the number. Up to so many trials nothing is left out.

    Source: the weights are Optuna's, which refers to Bergstra et al. 2013 for them. Differs: the cut.
    """

    def __init__(self, search: SearchPlan, model: ModelPlan, seed: int, trials: Sequence[FrozenTrial]) -> None:
        """The history that has these trials, in the order of their numbers; ``seed`` is the study's."""
        self._search, self._model, self._seed = search, model, seed
        self._storage = _Shown()
        self._study = optuna.create_study(storage=self._storage, direction="maximize")
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._ids: list[int] = []
        self._points: set[str] = set()
        self._good: list[tuple[float, float, int]] = []
        self._others: list[int] = []
        for trial in trials:
            self._enter(trial, self._storage.create_new_trial(self._study_id, trial))
            if trial.state.is_finished():
                self._learn(self._ids[-1])

    def __len__(self) -> int:
        """Number of trials."""
        return len(self._ids)

    def ask(self) -> FrozenTrial:
        """One more trial, running, different from all before it where the space allows."""
        number = len(self)
        seed = derive(self._seed, "ask", self._model.name, number)
        self._study.sampler = sampler_for(self._search, self._model, number, seed)
        trial, id_here = self._draw(self._study, self._storage)
        if self._search.sampler != "grid" and _point(trial) in self._points:
            for attempt in range(MAX_REDRAWS):
                blank = InMemoryStorage()
                sampler = random_sampler(derive(seed, "redraw", attempt))
                trial, _ = self._draw(optuna.create_study(storage=blank, sampler=sampler), blank)
                if _point(trial) not in self._points:
                    break
            # The one that was drawn before stays behind, and is not shown.
            id_here = self._storage.create_new_trial(self._study_id, trial)
        self._enter(trial, id_here)
        return trial

    def settled(self, number: int) -> bool:
        """Whether a trial has ended for good."""
        return self._storage.get_trial(self._ids[number]).state.is_finished()

    def tell(self, number: int, outcome: Outcome) -> None:
        """Learn how a trial has ended."""
        settle(self._storage, self._ids[number], outcome)
        self._learn(self._ids[number])

    def _draw(self, study: optuna.Study, storage: InMemoryStorage) -> tuple[FrozenTrial, int]:
        """Ask the one study of a storage for a trial, described whole, and its id there."""
        asked = study.ask()
        parameters = suggest(asked, self._model)
        fixed = self._model.member_seed
        seed = derive(self._seed, "member", self._model.name, len(self)) if fixed is None else fixed
        # Ids are numbers in a storage of one study.
        drawn = storage.get_trial(asked.number)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=drawn.params,
            distributions=drawn.distributions,
            user_attrs={PARAMETERS: parameters, SEED: seed},
            # TPE keeps there what it drew jointly, and reads it while the trial runs.
            system_attrs=drawn.system_attrs,
        )
        return trial, asked.number

    def _enter(self, trial: FrozenTrial, id_here: int) -> None:
        self._ids.append(id_here)
        self._points.add(_point(trial))
        self._storage.shown.append(id_here)

    def _learn(self, id_here: int) -> None:
        """Show an ended trial instead of one that has become too much, unless it has failed."""
        trial = self._storage.get_trial(id_here)
        if trial.state is TrialState.FAIL:
            self._storage.shown.remove(id_here)
            return
        insort(self._good, (*_rank(trial), id_here))
        if len(self._good) > N_GOOD:
            insort(self._others, self._good.pop()[-1])
        if len(self._good) + len(self._others) > max(MAX_LEARNED, self._search.n_startup):
            self._storage.shown.remove(self._others.pop(0))


class _Shown(InMemoryStorage):
    """A storage of one study, whose ids are its numbers, that lists the trials in ``shown`` only."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        every = super().get_all_trials(study_id, deepcopy=False)
        trials = [every[number] for number in self.shown if states is None or every[number].state in states]
        return copy.deepcopy(trials) if deepcopy else trials


def settle(storage: BaseStorage, trial_id: int, outcome: Outcome) -> None:
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


def _rank(trial: FrozenTrial) -> tuple[float, float]:
    """Sorts the best first, as TPE does: pruned trials behind all others, of these the latest pruned first."""
    if trial.state is TrialState.PRUNED:
        step, value = max(trial.intermediate_values.items())
        return -step, -value
    assert trial.value is not None
    return -math.inf, -trial.value


def _point(trial: FrozenTrial) -> str:
    return json.dumps(trial.user_attrs[PARAMETERS], sort_keys=True)
