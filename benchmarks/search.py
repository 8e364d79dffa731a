"""The search alone: what it costs to show the sampler a part of a study's trials only, and what it saves."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import mean, median, stdev
from unittest.mock import patch

from benchmarks.table import Section
from study.outcome import Outcome, Status
from study.plan import Choices, Domain, Interval, ModelPlan, Parameter
from study.search import history
from study.search.history import PARAMETERS, History
from study.study_file import load_spec

CELLS, N_SEEDS, N_TRIALS, STACK_SIZE, LOOK_BACK = ("elman_tanh", "lstm"), 6, 1000, 8, 3

Objective = Callable[[float, random.Random], float]
"""A trial's value by its squared distance from the best point, and by chance."""

OBJECTIVES: dict[str, Objective] = {
    "hill": lambda distance, chance: math.exp(-distance / 4) + chance.gauss(0, 0.02),
    # Most of the space teaches nothing, and three in ten of the good points fail.
    "island": lambda distance, chance: max(0.0, math.exp(-distance / 2) - 0.2) * (chance.random() < 0.7),
}


@dataclass(frozen=True)
class Searched:
    """Best value of the first half of the trials and of all, mean of the second half, and milliseconds of an ask."""

    early: float
    best: float
    late_mean: float
    ask_ms: float


def search() -> Section:
    """Searches that are shown all their trials, and those that leave out what ``study.search.history`` leaves out."""
    plan = load_spec("default_search").plan("cpu")
    models = [plan.model(cell) for cell in CELLS]
    found: dict[int, list[Searched]] = {N_TRIALS: [], history.MAX_LEARNED: []}
    for model, objective, seed in product(models, OBJECTIVES.values(), range(N_SEEDS)):
        for n_shown, runs in found.items():
            with patch.object(history, "MAX_LEARNED", n_shown):
                runs.append(_run(History(plan.search, model, seed, ()), model, objective, seed))
    rows = [_row(n_shown, runs, found[N_TRIALS]) for n_shown, runs in found.items()]
    return Section(
        title=f"The search: {N_TRIALS:,} trials of synthetic objectives, of which the sampler is shown all or some",
        command="make bench ARGS=search",
        columns=(
            "ended trials shown at most",
            f"best of {N_TRIALS // 2}",
            f"best of {N_TRIALS:,}",
            f"mean of the last {N_TRIALS // 2}",
            "ms per ask at the end",
        ),
        rows=rows,
        notes=f"The default spaces of {' and '.join(CELLS)}, a hill and an island in each, {N_SEEDS} searches for each "
        f"of the four, {STACK_SIZE} trials asked for at a time while {LOOK_BACK - 1} such stacks are open, half of the "
        "trials pruned. Behind the means over all searches: by how much they differ from searches that are shown "
        "everything, with the standard error of the paired difference.",
    )


def _run(searched: History, model: ModelPlan, objective: Objective, seed: int) -> Searched:
    """Search for a point that the seed draws, with asks and tells in the order that a study has."""
    chance = random.Random(seed)
    target = {name: _target(domain, chance) for name, domain in model.space.items()}
    values: list[float] = []
    asked: list[Mapping[str, Parameter]] = []
    for first in range(0, N_TRIALS, STACK_SIZE):
        began = time.perf_counter()
        asked += [searched.ask().user_attrs[PARAMETERS] for _ in range(STACK_SIZE)]
        ask_ms = 1e3 * (time.perf_counter() - began) / STACK_SIZE
        for number in range(len(values), first - (LOOK_BACK - 1) * STACK_SIZE + STACK_SIZE):
            distance = sum(target[name](value) for name, value in asked[number].items())
            value = objective(distance, chance)
            pruned = bool(values) and value < median(values[-100:])
            values.append(value)
            searched.tell(number, _outcome(value, pruned, chance))
    half = N_TRIALS // 2
    return Searched(early=max(values[:half]), best=max(values), late_mean=mean(values[half:]), ask_ms=ask_ms)


def _target(domain: Domain, chance: random.Random) -> Callable[[Parameter], float]:
    """A best value of this hyperparameter; squared distances from it, in quarters of the domain."""
    if isinstance(domain, Interval):
        scale = math.log if domain.log else float
        low, span, best = scale(domain.low), scale(domain.high) - scale(domain.low), chance.random()
        return lambda value: (((scale(float(value)) - low) / span - best) / 0.25) ** 2
    if isinstance(domain, Choices):
        cost = {value: 1.5 * chance.random() for value in domain.values}
        return lambda value: cost[value]
    return lambda value: 0.0


def _outcome(value: float, pruned: bool, chance: random.Random) -> Outcome:
    return Outcome(
        status=Status.PRUNED if pruned else Status.COMPLETE,
        dependency_length=0,
        skill=value,
        diverged=False,
        n_updates=chance.choice((250, 500)) if pruned else 1000,
    )


def _row(n_shown: int, runs: list[Searched], whole: list[Searched]) -> list[str]:
    def cell(name: str) -> str:
        here, there = ([getattr(one, name) for one in some] for some in (runs, whole))
        if runs is whole:
            return f"{mean(here):.3f}"
        differences = [a - b for a, b in zip(here, there, strict=True)]
        error = stdev(differences) / math.sqrt(len(differences))
        return f"{mean(here):.3f} ({mean(differences):+.3f} ± {error:.3f})"

    return [
        "all" if runs is whole else str(n_shown),
        *(cell(name) for name in ("early", "best", "late_mean")),
        f"{median(one.ask_ms for one in runs):.1f}",
    ]
