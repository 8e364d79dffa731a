"""What tests of real data share: a small network that is measured at ten contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from study.outcome import Rung
from study.plan import Hyperparameters, Member, StackPlan, TaskPlan
from study_tests import plan_book
from study_tests.plan_book import STACK

TRAINING = replace(
    plan_book.TRAINING,
    n_updates=3,
    report_every=2,
    evaluate_every=2,
    rungs=(2,),
    ladder=tuple(range(1, 11)),
    n_interim=100,
)


def plan(task: TaskPlan, n_members: int = 1, **changes: object) -> StackPlan:
    members = tuple(Member(number=k, hyperparameters=Hyperparameters(), seed=k) for k in range(n_members))
    whole = replace(STACK, cell="elman_rectifier", task=task, training=TRAINING, members=members)
    return replace(whole, **changes)  # type: ignore[arg-type]


def means(rungs: Sequence[Rung]) -> list[float]:
    return [rung.loss.mean for rung in rungs if rung.loss is not None]
