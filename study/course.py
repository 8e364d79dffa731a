"""One model's way through its budget, as the conductor keeps track of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from study.outcome import Outcome, Status
from study.plan import ModelPlan
from study.record import TrialRecord


class Search(Protocol):
    """The search of one model; see ``study.search.model_search.ModelSearch``."""

    def ask(self, n_trials: int) -> list[TrialRecord]:
        """More trials."""

    def save(self, outcomes: Mapping[int, Outcome]) -> None:
        """Keep the outcomes of trials that have ended, by number."""

    def tell(self, numbers: Iterable[int]) -> None:
        """Settle trials with their saved outcomes."""

    def release(self) -> None:
        """Give up the open trials."""

    def records(self) -> list[TrialRecord]:
        """All trials by number."""


@dataclass(kw_only=True)
class Course:
    """One model's way through its budget: how many trials it has asked, how they ended, how many rounds it has told.

    ``records`` are the trials that have not been told, ``logged`` up to which update these have reported, ``closed``
    those of whose end the tracker knows, ``outcomes`` those of all that have ended. A live display reads its counts and
    its best from another thread while it changes.
    """

    plan: ModelPlan
    search: Search
    n_asked: int
    records: dict[int, TrialRecord]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    n_ended: Counter[Status] = field(default_factory=Counter)
    n_diverged: int = 0
    n_running: int = 0
    n_member_updates: int = 0
    n_told: int = 0
    logged: dict[int, int] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    _best: int | None = field(default=None, init=False)

    @property
    def n_settled(self) -> int:
        """Trials that have ended."""
        return len(self.outcomes)

    @property
    def best(self) -> Outcome | None:
        """The best outcome, of equals that of the trial asked first; None while nothing has been measured."""
        return None if self._best is None else self.outcomes[self._best]

    def forget(self, number: int) -> None:
        """Let a trial go that has been told; its outcome stays."""
        self.records.pop(number, None)
        self.logged.pop(number, None)
        self.closed.discard(number)

    def keep(self, number: int, outcome: Outcome) -> None:
        """Add the outcome of a trial that has ended; only the best stays whole, for a study has thousands."""
        earlier, self.outcomes[number] = self._best, outcome
        self.n_ended[outcome.status] += 1
        self.n_diverged += outcome.diverged
        candidates = [one for one in (earlier, number) if one is not None]
        measured = [one for one in candidates if self.outcomes[one].status is not Status.FAILED]
        self._best = min(measured, key=lambda one: (self.outcomes[one].order, one), default=None)
        for one in candidates:
            if one != self._best:
                self.outcomes[one] = self.outcomes[one].outline
