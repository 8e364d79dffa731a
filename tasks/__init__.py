"""What has to be remembered: long-lag problems.

A task is one file and one entry in ``TASKS``.
"""

from __future__ import annotations

from tasks.adding import Adding
from tasks.indicator import Indicator
from tasks.latch import Latch
from tasks.multiplication import Multiplication
from tasks.parity import Parity
from tasks.task import Batch, Task
from tasks.temporal_order import TemporalOrder
from tasks.two_sequence import TwoSequence

__all__ = ["TASKS", "Batch", "Task"]

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        TemporalOrder,
        Adding,
        Latch,
        TwoSequence,
        Parity,
        Multiplication,
        Indicator,
    )
}
"""Every task by the name that a study file uses."""
