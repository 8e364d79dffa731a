"""The sampler that a study file names."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler

from study.grid import grid_points
from study.plan import ModelPlan, SearchPlan
from study.search.lessons import Lessons
from study.search.tpe import Tpe

MAX_SEED = 2**32
"""Numpy's legacy generator, which Optuna uses, takes no seed beyond."""


def random_sampler(seed: int) -> RandomSampler:
    """Independent uniform draws."""
    return RandomSampler(seed=seed % MAX_SEED)


def sampler_for(search: SearchPlan, model: ModelPlan, lessons: Lessons, seed: int) -> BaseSampler:
    """The sampler that draws the trial after those of ``lessons``, and nothing else."""
    if search.sampler == "random":
        return random_sampler(seed)
    if search.sampler == "grid":
        points = grid_points(model.cell, model.space)
        with warnings.catch_warnings():
            # Only for being marked experimental; its one job, fixed values, is covered by our tests.
            warnings.simplefilter("ignore", ExperimentalWarning)
            return PartialFixedSampler(points[len(lessons) % len(points)], random_sampler(seed))
    return Tpe(lessons, search.n_startup, seed % MAX_SEED)
