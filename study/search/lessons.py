"""What a sampler learns from: the points of one model's trials as numbers, of which a bounded number is looked at."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe.sampler import default_gamma
from optuna.trial import TrialState

from study.search.verdict import Verdict

MAX_LEARNED = 250
"""Ended trials that are learned from at most: what TPE costs for an ask is linear in them.

Of synthetic objectives with one peak the best trial found is as good as with all, and the average one better
(``make bench ARGS=search``).
"""

N_GOOD = 25
"""Trials that TPE takes for good ones at most."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]


class Lessons:
    """The points of all trials by number, a row of numbers each, and which of them count.

    The running trials count, as bad ones, and at most ``MAX_LEARNED`` ended ones, or as many as the start-up has where
    that is more: the ``N_GOOD`` best, and the latest of the others. So TPE's density of good trials is the one that all
    trials give; its density of the others has the weights and widths of those that count, and lacks those that it
    would weigh least, for its weights rise with the number. Up to so many trials nothing is left out.

    Source: the share of good trials is Optuna's, as are the weights, for which it refers to Bergstra et al. 2013.
    Differs: the cut.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], n_startup: int) -> None:
        """Nothing learned yet; the distributions are those of all hyperparameters that are searched, by name."""
        self.distributions = dict(distributions)
        self._n_most = max(MAX_LEARNED, n_startup)
        self._columns = {name: column for column, name in enumerate(self.distributions)}
        self._points = np.empty((0, len(self._columns)))
        self._n_trials = 0
        # In order, for numbers only ever rise; with the columns of what was drawn but does not apply.
        self._running: dict[int, list[int]] = {}
        self._good: list[tuple[float, float, int]] = []
        self._others: list[int] = []

    def __len__(self) -> int:
        """Number of trials."""
        return self._n_trials

    @property
    def n_learned(self) -> int:
        """Number of ended trials that count."""
        return len(self._good) + len(self._others)

    def running(self, number: int) -> bool:
        """Whether a trial has not ended."""
        return number in self._running

    def enter(self, drawn: Mapping[str, Any], applied: Collection[str]) -> None:
        """One more trial, which runs, with all that was drawn for it: what does not apply counts until it ends."""
        if self._n_trials == len(self._points):
            more = np.empty((max(64, self._n_trials), len(self._columns)))
            self._points = np.concatenate([self._points, more])
        self._points[self._n_trials] = np.nan
        for name, value in drawn.items():
            self._points[self._n_trials, self._columns[name]] = self.distributions[name].to_internal_repr(value)
        self._running[self._n_trials] = [self._columns[name] for name in drawn if name not in applied]
        self._n_trials += 1

    def end(self, number: int, verdict: Verdict) -> None:
        """How a running trial has ended; it counts instead of one that is too much, and no more if it has failed."""
        self._points[number, self._running.pop(number)] = np.nan
        if verdict.state is TrialState.FAIL:
            return
        insort(self._good, (*verdict.rank, number))
        if len(self._good) > N_GOOD:
            insort(self._others, self._good.pop()[-1])
        if self.n_learned > self._n_most:
            del self._others[0]

    def split(self) -> tuple[list[int], list[int]]:
        """Numbers of the good trials and of all others that count, both in order."""
        n_good = default_gamma(self.n_learned)
        good = [number for *_, number in self._good]
        return sorted(good[:n_good]), sorted([*good[n_good:], *self._others, *self._running])

    def patterns(self) -> Iterator[frozenset[str]]:
        """The names of what applied together in ended trials that count, in the order of their first ones."""
        numbers = sorted([number for *_, number in self._good] + self._others)
        for applied in dict.fromkeys(map(tuple, (~np.isnan(self._points[numbers])).tolist())):
            yield frozenset(name for name, column in self._columns.items() if applied[column])

    def columns(self, numbers: Sequence[int], names: Sequence[str]) -> dict[str, Numbers]:
        """By name the values of those of these trials for which all of the names were drawn, as Optuna numbers them."""
        points = self._points[np.ix_(numbers, [self._columns[name] for name in names])]
        whole = points[~np.isnan(points).any(axis=1)]
        return dict(zip(names, whole.T, strict=True))
