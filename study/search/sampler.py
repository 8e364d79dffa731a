"""Optuna's samplers with every argument spelled out, so that results do not move on an upgrade."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler

from study.grid import grid_points
from study.plan import ModelPlan, SearchPlan

MAX_SEED = 2**32
"""Numpy's legacy generator, which Optuna uses, takes no seed beyond."""


def random_sampler(seed: int) -> RandomSampler:
    """Independent uniform draws."""
    return RandomSampler(seed=seed % MAX_SEED)


def sampler_for(search: SearchPlan, model: ModelPlan, number: int, seed: int) -> BaseSampler:
    """The sampler that draws trial ``number``, and nothing else; a pure function of its arguments.

    TPE models all hyperparameters jointly, in groups where some apply to a part of the trials only, and lies about
    running trials (they count as bad), so that a batch of asks spreads out. It learns from the trials that
    ``study.search.history.History`` shows it.

    Source: Bergstra et al. 2011 (TPE); Falkner et al. 2018 (multivariate). Differs: Optuna's implementation.
    """
    if search.sampler == "random":
        return random_sampler(seed)
    if search.sampler == "grid":
        points = grid_points(model.cell, model.space)
        with warnings.catch_warnings():
            # Only for being marked experimental; its one job, fixed values, is covered by our tests.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return PartialFixedSampler(points[number % len(points)], random_sampler(seed))
    with warnings.catch_warnings():
        # The argument group is marked experimental; without it conditional hyperparameters are drawn one by one.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            seed=seed % MAX_SEED,
            n_startup_trials=search.n_startup,
            n_ei_candidates=24,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
