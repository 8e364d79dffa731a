"""One model's way through its budget, as the conductor keeps track of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from study.outcome import Outcome, Status
from study.plan import ModelPlan
from study.record import TrialRecord


class Search(Protocol):
    """The search of one model; see ``study.search.model_search.ModelSearch``."""

    def ask(self) -> TrialRecord:
        """One more trial."""

    def save(self, number: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial that has ended."""

    def tell(self, number: int) -> None:
        """Settle a trial with its saved outcome."""

    def release(self) -> None:
        """Give up the open trials."""

    def records(self) -> list[TrialRecord]:
        """All trials by number."""


@dataclass(kw_only=True)
class ModelProgress:
    """How far the search of one model is: counts of trials, updates made, and the best outcome."""

    n_trials: int
    n_complete: int = 0
    n_pruned: int = 0
    n_failed: int = 0
    n_diverged: int = 0
    n_running: int = 0
    best: Outcome | None = None
    n_member_updates: int = 0

    @property
    def n_settled(self) -> int:
        """Trials that have ended."""
        return self.n_complete + self.n_pruned + self.n_failed

    def count(self, outcome: Outcome) -> None:
        """Add an ended trial."""
        self.n_complete += outcome.status is Status.COMPLETE
        self.n_pruned += outcome.status is Status.PRUNED
        self.n_failed += outcome.status is Status.FAILED
        self.n_diverged += outcome.diverged
        if outcome.status is not Status.FAILED:
            self.best = min(self.best or outcome, outcome, key=lambda one: one.order)


@dataclass(kw_only=True)
class Course:
    """One model's way through its budget: how many trials it has asked, and how many rounds it has told.

    ``records`` are the trials that have not been told, ``logged`` up to which update these have reported, ``outcomes``
    those of all that have ended, ``best`` the number of the best of them.
    """

    plan: ModelPlan
    search: Search
    n_asked: int
    records: dict[int, TrialRecord]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    best: int | None = None
    n_told: int = 0
    logged: dict[int, int] = field(default_factory=dict)

    def forget(self, number: int) -> None:
        """Let a trial go that has been told; its outcome stays."""
        self.records.pop(number, None)
        self.logged.pop(number, None)

    def keep(self, number: int, outcome: Outcome) -> None:
        """Add an outcome; only the best, of equals the one asked first, stays whole, for a study has thousands."""
        earlier, self.outcomes[number] = self.best, outcome
        candidates = [one for one in (earlier, number) if one is not None]
        measured = [one for one in candidates if self.outcomes[one].status is not Status.FAILED]
        self.best = min(measured, key=lambda one: (self.outcomes[one].order, one), default=None)
        for one in candidates:
            if one != self.best:
                self.outcomes[one] = self.outcomes[one].outline
