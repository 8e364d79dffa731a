"""What has to be remembered: long-lag problems.

A task is one file and one entry in ``TASKS``.
"""

from __future__ import annotations

from tasks.adding import Adding
from tasks.copy_delimiter import CopyDelimiter
from tasks.embedded_reber import EmbeddedReber
from tasks.indicator import Indicator
from tasks.latch import Latch
from tasks.long_lag import LongLag
from tasks.memorisation import Memorisation
from tasks.multiplication import Multiplication
from tasks.parity import Parity
from tasks.random_permutation import RandomPermutation
from tasks.task import Batch, Task
from tasks.temporal_order import TemporalOrder
from tasks.two_sequence import TwoSequence
from tasks.very_long_lag import VeryLongLag

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
        EmbeddedReber,
        LongLag,
        VeryLongLag,
        RandomPermutation,
        Memorisation,
        CopyDelimiter,
    )
}
"""Every task by the name that a study file uses."""
