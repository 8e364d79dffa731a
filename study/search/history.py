"""What a sampler learns from: the trials of one model in memory, of which it is shown a bounded number."""

from __future__ import annotations

import copy
import json
import math
from bisect import insort
from collections.abc import Container, Iterable
from contextlib import suppress
from hashlib import blake2b

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

MAX_LEARNED = 250
"""Ended trials that are learned from at most: what TPE costs for an ask is linear in them, some 10 us for each.

Of synthetic objectives with one peak the best trial found is as good as with all, and the average one better
(``make bench ARGS=search``).
"""

MAX_HIDDEN = 100
"""Trials that are no longer shown, and still held, at most: to leave them behind costs some 30 ms."""

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

    def __init__(self, search: SearchPlan, model: ModelPlan, seed: int, trials: Iterable[FrozenTrial]) -> None:
        """The history that has these trials, in the order of their numbers; ``seed`` is the study's."""
        self._search, self._model, self._seed = search, model, seed
        self._storage = _Shown()
        self._running: dict[int, int] = {}
        self._points: set[bytes] = set()
        self._good: list[tuple[float, float, int]] = []
        self._others: list[int] = []
        self._n_trials = 0
        for number, trial in enumerate(trials):
            self._enter(trial, self._storage.add(trial))
            if trial.state.is_finished():
                self._learn(self._running.pop(number))
            self._leave_behind()

    def __len__(self) -> int:
        """Number of trials."""
        return self._n_trials

    def ask(self) -> FrozenTrial:
        """One more trial, running, different from all before it where the space allows."""
        number = len(self)
        self._leave_behind()
        seed = derive(self._seed, "ask", self._model.name, number)
        self._storage.study.sampler = sampler_for(self._search, self._model, number, seed)
        trial, id_here = self._draw(self._storage.study, self._storage)
        if self._search.sampler != "grid" and _point(trial) in self._points:
            for attempt in range(MAX_REDRAWS):
                blank = InMemoryStorage()
                sampler = random_sampler(derive(seed, "redraw", attempt))
                trial, _ = self._draw(optuna.create_study(storage=blank, sampler=sampler), blank)
                if _point(trial) not in self._points:
                    break
            # The one that was drawn before stays behind, and is not shown.
            id_here = self._storage.add(trial)
        self._enter(trial, id_here)
        return trial

    def settled(self, number: int) -> bool:
        """Whether a trial has ended for good."""
        return number not in self._running

    def tell(self, number: int, outcome: Outcome) -> None:
        """Learn how a trial has ended."""
        id_here = self._running.pop(number)
        settle(self._storage, id_here, outcome)
        self._learn(id_here)

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
        self._running[len(self)] = id_here
        self._n_trials += 1
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

    def _leave_behind(self) -> None:
        """Go on with the trials that are shown, in a storage of their own, if too many others are in this one.

        They keep their order, and a sampler asks no more of their numbers.
        """
        if self._storage.n_hidden <= MAX_HIDDEN:
            return
        old, self._storage = self._storage, _Shown()
        ids = {id_before: self._storage.add(old.get_trial(id_before)) for id_before in old.shown}
        self._storage.shown = list(ids.values())
        self._running = {number: ids[id_before] for number, id_before in self._running.items()}
        self._good = [(step, value, ids[id_before]) for step, value, id_before in self._good]
        self._others = [ids[id_before] for id_before in self._others]


class _Shown(InMemoryStorage):
    """A storage of one study, whose ids are its numbers, that lists the trials in ``shown`` only."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []
        self.study = optuna.create_study(storage=self, direction="maximize")
        self._study_id = self.get_study_id_from_name(self.study.study_name)

    @property
    def n_hidden(self) -> int:
        """Trials that are not listed."""
        return len(super().get_all_trials(self._study_id, deepcopy=False)) - len(self.shown)

    def add(self, trial: FrozenTrial) -> int:
        """Enter a copy of a trial, which is not listed yet; its id here."""
        return self.create_new_trial(self._study_id, trial)

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


def _point(trial: FrozenTrial) -> bytes:
    """What tells a point from all others: eight bytes, for a study has thousands."""
    text = json.dumps(trial.user_attrs[PARAMETERS], sort_keys=True)
    return blake2b(text.encode(), digest_size=8).digest()
