"""The tree-structured Parzen estimator: where good trials are dense and others are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_weights
from optuna.study import Study
from optuna.trial import FrozenTrial

from study.search.lessons import Lessons

N_CANDIDATES = 24
"""Points drawn from the density of good trials, of which the most promising is taken."""

_WIDTHS = _ParzenEstimatorParameters(
    prior_weight=1.0, consider_magic_clip=True, consider_endpoints=False, weights=default_weights, multivariate=True
)


class Tpe(BaseSampler):
    """Draws one trial: of points from the density l of good trials the one with the largest l / g, g of the others.

    Hyperparameters that apply together are modelled jointly, each such group for itself. Running trials count as bad,
    so that a batch of asks spreads out. Until as many trials as the start-up has have ended, draws are uniform.

    It draws what Optuna's ``TPESampler`` with ``multivariate``, ``group`` and ``constant_liar`` draws from the same
    trials and seed. That one sorts and rewrites all trials for each draw, which takes most of its time where hundreds
    of trials run; this one looks them up. The densities are Optuna's, private names of its 5.0.

    Source: Bergstra et al. 2011 (TPE); Falkner et al. 2018 (multivariate). Differs: groups, and lies about what runs.
    """

    def __init__(self, lessons: Lessons, n_startup: int, seed: int) -> None:
        """A sampler that learns from ``lessons``; ``seed`` is below 2**32."""
        self._lessons = lessons
        self._starts = lessons.n_learned < n_startup
        self._uniform = RandomSampler(seed=seed)
        self._random = np.random.RandomState(seed)
        self._good, self._others = lessons.split()
        self._groups = [
            {name: lessons.distributions[name] for name in sorted(group)} for group in groups(lessons.patterns())
        ]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All that is drawn before the trial asks for it."""
        return {name: distribution for group in self._groups for name, distribution in group.items()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """One group after the other; nothing in the start-up."""
        if self._starts:
            return {}
        return {name: value for group in self._groups for name, value in self._draw(group).items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What is in no group, because it has applied to no trial that has ended."""
        if self._starts:
            return self._uniform.sample_independent(study, trial, param_name, param_distribution)
        return self._draw({param_name: param_distribution})[param_name]

    def _draw(self, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
        good, others = (
            _ParzenEstimator(self._lessons.columns(numbers, list(space)), dict(space), _WIDTHS)
            for numbers in (self._good, self._others)
        )
        points = good.sample(self._random, N_CANDIDATES)
        best = np.argmax(good.log_pdf(points) - others.log_pdf(points))
        return {name: one.to_external_repr(points[name][best].item()) for name, one in space.items()}


def groups(patterns: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """The coarsest parts of all names such that every pattern, of names that apply together, is made up of whole ones.

    In the order in which they are found and split, for that is the order in which they are drawn.
    """
    found: list[frozenset[str]] = []
    for pattern in patterns:
        parts = [part for group in found for part in (group & pattern, group - pattern)]
        found = [part for part in (*parts, pattern.difference(*found)) if part]
    return found
