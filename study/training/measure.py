"""Which problem a stack is trained on, and how it is measured: the one place that asks what kind of problem it is."""

from __future__ import annotations

from study.plan import StackPlan
from study.training.context import Contexts
from study.training.ladder import Ladder
from study.training.yardstick import Yardstick
from tasks import DATASETS, TASKS


def yardstick(plan: StackPlan) -> Yardstick:
    """What measures the plan's problem; raises ValueError if the data that it rests on is not there."""
    task = plan.task
    if task.name in DATASETS:
        dataset = DATASETS[task.name](**task.parameters)
        dataset.load()
        return Contexts(dataset, plan.training, plan.seed, plan.device)
    return Ladder(TASKS[task.name](**task.parameters), plan.training, plan.seed, plan.device)
