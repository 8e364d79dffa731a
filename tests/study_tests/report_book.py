"""Records of trials that have ended this way or that, for tests of what is said of them."""

from __future__ import annotations

import math
from dataclasses import replace

from rich.console import Console, RenderableType

from study.grid import grid_points
from study.outcome import Loss, Outcome, Rung, Status, TrialKey, failed_outcome
from study.record import TrialRecord
from study.study_file import parse_spec

MODELS = ["tanh_elman", "lstm"]


def record(
    model: str, number: int, length: int = 0, skill: float = 0.0, status: Status = Status.COMPLETE
) -> TrialRecord:
    rungs = (
        Rung(length=10, lag=8, n_failed=0 if length else 400, n_sequences=1000),
        Rung(length=20, lag=16, n_failed=300, n_sequences=1000),
    )
    metrics = {"gradient/decay_rate": -0.1, "gradient/half_life": math.inf, "bound/vanishing": 1.0}
    outcome = failed_outcome("Traceback: boom")
    if status is not Status.FAILED:
        outcome = Outcome(
            status=status,
            dependency_length=length,
            skill=skill,
            diverged=False,
            n_updates=100,
            rungs=rungs[: 2 if length else 1],
            confirmed=replace(rungs[0], n_failed=2 if length else 410),
            metrics=metrics,
        )
    return TrialRecord(
        key=TrialKey(study="demo", model=model, number=number),
        parameters={"learning_rate": 0.1, "optimiser": "sgd", "clip_norm": math.inf},
        seed=7,
        status=status,
        outcome=outcome,
        run_id="f" * 32,
    )


def running(model: str, number: int) -> TrialRecord:
    open_trial = record(model, number)
    return TrialRecord(
        key=open_trial.key, parameters={}, seed=7, status=Status.RUNNING, outcome=None, run_id=open_trial.run_id
    )


RECORDS = [
    record("tanh_elman", 0, 8, 0.25),
    record("tanh_elman", 1, 8, 0.5, Status.PRUNED),
    record("tanh_elman", 2, 8, 0.5),
    record("tanh_elman", 3, 8, 0.5),
    record("tanh_elman", 4, status=Status.FAILED),
    running("tanh_elman", 5),
    record("lstm", 0, 16, 0.0),
]


def on_data(number: int, full: float) -> TrialRecord:
    """A trial whose losses at contexts 0 and 8 are ln 8 and ``full``."""
    lag_trial = record("lstm", number)
    rungs = tuple(
        Rung(length=at, lag=at, n_failed=30, n_sequences=100, loss=Loss(mean=loss, standard_error=0.01))
        for at, loss in ((0, math.log(8)), (8, full))
    )
    assert lag_trial.outcome is not None
    skill = max(0.0, 1 - full / math.log(8))
    outcome = replace(lag_trial.outcome, dependency_length=8, skill=skill, rungs=rungs, confirmed=rungs[-1])
    return replace(lag_trial, outcome=outcome)


GRID = """
name: grid
task: {name: temporal_order}
ladder: [10, 20]
training: {lengths: 10, n_updates: 1000}
search: {sampler: grid, n_trials: 2}
models: {tanh: {cell: elman_tanh}}
space: {init: sparse, init_scale: 1, optimiser: sgd, learning_rate: {choices: [0.1, 0.01]}, dropout: none,
        omega_weight: 0}
"""


def replicate(number: int, learning_rate: float, n_updates: int, *, solved: bool, length: int = 8) -> TrialRecord:
    """A trial of that grid with a dependency length, which fails at the last rung or not at all."""
    spec = parse_spec(GRID)
    plan = spec.plan("cpu")
    outcome = record("tanh", number, length).outcome
    assert outcome is not None
    top = replace(outcome.rungs[-1], n_failed=9 if solved else 10)
    return TrialRecord(
        key=TrialKey(study="grid", model="tanh", number=number),
        parameters={**grid_points("elman_tanh", plan.model("tanh").space)[0], "learning_rate": learning_rate},
        seed=number,
        status=Status.COMPLETE,
        outcome=replace(outcome, n_updates=n_updates, rungs=(outcome.rungs[0], top)),
        run_id=None,
    )


def lines_of(shown: RenderableType, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().splitlines()
