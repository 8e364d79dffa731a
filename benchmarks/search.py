"""The search alone: what it costs to show the sampler a part of a study's trials only, and what it saves."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import mean, median, stdev
from unittest.mock import patch

from benchmarks.table import Section
from study.outcome import Outcome, Status
from study.plan import Choices, Domain, Interval, ModelPlan, Parameter
from study.search import lessons
from study.search.history import PARAMETERS, History
from study.study_file import load_spec

CELLS, N_SEEDS, N_TRIALS, STACK_SIZE, LOOK_BACK = ("elman_tanh", "lstm"), 5, 1000, 8, 3

SHOWN = (N_TRIALS, 500, lessons.MAX_LEARNED)
"""Ended trials that the samplers are shown at most, the first of them all."""


@dataclass(frozen=True)
class Objective:
    """A trial's value by its squared distance from the best point, and what a measurement makes of the value."""

    value: Callable[[float], float]
    measured: Callable[[float, random.Random], float]


OBJECTIVES: dict[str, Objective] = {
    "hill": Objective(
        value=lambda distance: math.exp(-distance / 4), measured=lambda value, chance: value + chance.gauss(0, 0.02)
    ),
    # Most of the space teaches nothing, and three in ten of the good points fail.
    "island": Objective(
        value=lambda distance: max(0.0, math.exp(-distance / 2) - 0.2),
        measured=lambda value, chance: value * (chance.random() < 0.7),
    ),
}


@dataclass(frozen=True)
class Searched:
    """Best value of the first half of the trials and of all, mean of the second half, and milliseconds of an ask."""

    early: float
    best: float
    late_mean: float
    ask_ms: float


def search() -> Section:
    """Searches that are shown all their trials, and those that leave out what ``study.search.lessons`` leaves out."""
    plan = load_spec("default_search").plan("cpu")
    models = [plan.model(cell) for cell in CELLS]
    rows = []
    for name, objective in OBJECTIVES.items():
        found: dict[int, list[Searched]] = {n_shown: [] for n_shown in SHOWN}
        for model, seed, n_shown in product(models, range(N_SEEDS), SHOWN):
            chance = random.Random(f"{name} {model.name} {seed}")
            with patch.object(lessons, "MAX_LEARNED", n_shown):
                found[n_shown].append(_run(History(plan.search, model, seed, ()), model, objective, chance))
        rows += [_row(name, n_shown, runs, found[N_TRIALS]) for n_shown, runs in found.items()]
    return Section(
        title=f"The search: {N_TRIALS:,} trials of synthetic objectives, of which the sampler is shown all or some",
        command="make bench ARGS=search",
        columns=(
            "objective",
            "ended trials shown at most",
            f"best of {N_TRIALS // 2}",
            f"best of {N_TRIALS:,}",
            f"mean of the last {N_TRIALS // 2}",
            "ms per ask at the end",
        ),
        rows=rows,
        notes=f"The default spaces of {' and '.join(CELLS)}, {N_SEEDS} best points in each, {STACK_SIZE} trials asked "
        f"for at a time while {LOOK_BACK - 1} such stacks are open, the lower half of each stack pruned. The sampler "
        "learns measured values; the table has those without the noise of a measurement. Behind the means: by how much "
        "they differ from those of searches for the same points that are shown everything, with the standard error of "
        "the paired difference.",
    )


def _run(searched: History, model: ModelPlan, objective: Objective, chance: random.Random) -> Searched:
    """Search for a point that chance draws, with asks and tells in the order that a study has."""
    target = {name: _target(domain, chance) for name, domain in model.space.items()}
    values: list[float] = []
    stacks: deque[list[Mapping[str, Parameter]]] = deque()
    ask_ms = 0.0

    def tell_one() -> None:
        stack = stacks.popleft()
        true = [objective.value(sum(target[name](value) for name, value in one.items())) for one in stack]
        measured = [objective.measured(value, chance) for value in true]
        kept = sorted(range(STACK_SIZE), key=measured.__getitem__)[STACK_SIZE // 2 :]
        for k in range(STACK_SIZE):
            searched.tell(len(values) + k, _outcome(measured[k], k not in kept, chance))
        values.extend(true)

    for _ in range(N_TRIALS // STACK_SIZE):
        if len(stacks) == LOOK_BACK:
            tell_one()
        began = time.perf_counter()
        stacks.append([searched.ask().user_attrs[PARAMETERS] for _ in range(STACK_SIZE)])
        ask_ms = 1e3 * (time.perf_counter() - began) / STACK_SIZE
    while stacks:
        tell_one()
    half = N_TRIALS // 2
    return Searched(early=max(values[:half]), best=max(values), late_mean=mean(values[half:]), ask_ms=ask_ms)


def _target(domain: Domain, chance: random.Random) -> Callable[[Parameter], float]:
    """What a value of this hyperparameter adds to the squared distance from the best point.

    In an interval the distance is in quarters of it; every choice has a cost of its own up to 1.5; a fixed value none.
    """
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


def _row(objective: str, n_shown: int, runs: list[Searched], whole: list[Searched]) -> list[str]:
    def cell(name: str) -> str:
        here, there = ([getattr(one, name) for one in some] for some in (runs, whole))
        if runs is whole:
            return f"{mean(here):.3f}"
        differences = [a - b for a, b in zip(here, there, strict=True)]
        error = stdev(differences) / math.sqrt(len(differences))
        return f"{mean(here):.3f} ({mean(differences):+.3f} ± {error:.3f})"

    return [
        objective,
        "all" if runs is whole else str(n_shown),
        *(cell(name) for name in ("early", "best", "late_mean")),
        f"{median(one.ask_ms for one in runs):.1f}",
    ]
