"""What Optuna is told of a trial's end, and which of two ends is the better one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from study.outcome import Outcome, Status


@dataclass(frozen=True)
class Verdict:
    """An Optuna state and, unless the trial has failed, a value; ``step`` is where a pruned trial was left.

    A pruned trial has no value in Optuna; samplers rank it by its last step and what it reported there.
    """

    state: TrialState
    value: float = math.nan
    step: int = 0

    @classmethod
    def of_outcome(cls, outcome: Outcome) -> Verdict:
        """The one place that decides which state and value an outcome becomes."""
        if outcome.status is Status.FAILED:
            return cls(TrialState.FAIL)
        if outcome.status is Status.PRUNED:
            return cls(TrialState.PRUNED, outcome.value, outcome.n_updates)
        return cls(TrialState.COMPLETE, outcome.value)

    @classmethod
    def of_trial(cls, trial: FrozenTrial) -> Verdict:
        """That of a trial that has ended."""
        if trial.state is TrialState.PRUNED:
            step, value = max(trial.intermediate_values.items())
            return cls(trial.state, value, step)
        return cls(trial.state) if trial.value is None else cls(trial.state, trial.value)

    @property
    def rank(self) -> tuple[float, float]:
        """Sorts the best first, as TPE does: pruned trials behind all others, of these the latest pruned first."""
        worth = math.inf if math.isnan(self.value) else -self.value
        return (-self.step if self.state is TrialState.PRUNED else -math.inf), worth
