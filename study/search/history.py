"""The trials of one model in memory, as far as drawing the next one needs them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.outcome import Outcome
from study.plan import ModelPlan, SearchPlan
from study.search.lessons import Lessons
from study.search.sampler import random_sampler, sampler_for
from study.search.space import distributions, suggest
from study.search.verdict import Verdict
from study.seeds import derive

PARAMETERS, SEED = "longlag:parameters", "longlag:seed"

_JOINT = "tpe:relative_params:0"
"""Where Optuna's TPE keeps what it drew for a trial, also what then did not apply; it counts while the trial runs."""

MAX_REDRAWS = 100
"""Draws after which a point that was drawn before is accepted: the space has fewer points than trials."""


class History:
    """What has been asked and learned of one model; each ask is a function of that, of its number and of the seed."""

    def __init__(self, search: SearchPlan, model: ModelPlan, seed: int, trials: Iterable[FrozenTrial]) -> None:
        """The history that has these trials, in the order of their numbers; ``seed`` is the study's."""
        self._search, self._model, self._seed = search, model, seed
        self._lessons = Lessons(distributions(model), search.n_startup)
        self._points: set[bytes] = set()
        for number, trial in enumerate(trials):
            self._enter(trial)
            if trial.state.is_finished():
                self._lessons.end(number, Verdict.of_trial(trial))

    def __len__(self) -> int:
        """Number of trials."""
        return len(self._lessons)

    def ask(self) -> FrozenTrial:
        """One more trial, running, different from all before it where the space allows."""
        seed = derive(self._seed, "ask", self._model.name, len(self))
        trial = self._draw(sampler_for(self._search, self._model, self._lessons, seed))
        if self._search.sampler != "grid" and _point(trial) in self._points:
            for attempt in range(MAX_REDRAWS):
                trial = self._draw(random_sampler(derive(seed, "redraw", attempt)))
                if _point(trial) not in self._points:
                    break
        self._enter(trial)
        return trial

    def settled(self, number: int) -> bool:
        """Whether a trial has ended for good."""
        return not self._lessons.running(number)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Learn how a trial has ended."""
        self._lessons.end(number, Verdict.of_outcome(outcome))

    def _draw(self, sampler: BaseSampler) -> FrozenTrial:
        """A trial that a sampler draws, described whole."""
        storage = InMemoryStorage()
        asked = optuna.create_study(storage=storage, sampler=sampler, direction="maximize").ask()
        parameters = suggest(asked, self._model)
        fixed = self._model.member_seed
        seed = derive(self._seed, "member", self._model.name, len(self)) if fixed is None else fixed
        drawn = storage.get_trial(asked.number)
        return create_trial(
            state=TrialState.RUNNING,
            params=drawn.params,
            distributions=drawn.distributions,
            user_attrs={PARAMETERS: parameters, SEED: seed},
            system_attrs={_JOINT: json.dumps(asked.relative_params)} if asked.relative_params else {},
        )

    def _enter(self, trial: FrozenTrial) -> None:
        # What has one value only is no parameter of TPE's.
        searched = {name: value for name, value in trial.params.items() if name in self._lessons.distributions}
        self._points.add(_point(trial))
        self._lessons.enter(json.loads(trial.system_attrs.get(_JOINT, "{}")) | searched, searched)


def _point(trial: FrozenTrial) -> bytes:
    """What tells a point from all others: eight bytes, for a study has thousands."""
    text = json.dumps(trial.user_attrs[PARAMETERS], sort_keys=True)
    return blake2b(text.encode(), digest_size=8).digest()
