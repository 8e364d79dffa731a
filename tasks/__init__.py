"""What has to be remembered: long-lag problems, and real data.

A task or a data set is one file and one entry in ``TASKS`` or ``DATASETS``.
"""

from __future__ import annotations

from tasks.adding import Adding
from tasks.copy_delimiter import CopyDelimiter
from tasks.dataset import Dataset
from tasks.digits import Digits
from tasks.draw import Draws
from tasks.embedded_reber import EmbeddedReber
from tasks.indicator import Indicator
from tasks.latch import Latch
from tasks.long_lag import LongLag
from tasks.memorisation import Memorisation
from tasks.multiplication import Multiplication
from tasks.parity import Parity
from tasks.piano_roll import PianoRolls
from tasks.random_permutation import RandomPermutation
from tasks.task import Batch, Problem, Task
from tasks.temporal_order import TemporalOrder
from tasks.text import Text
from tasks.two_sequence import TwoSequence
from tasks.very_long_lag import VeryLongLag

__all__ = ["DATASETS", "TASKS", "Batch", "Dataset", "Draws", "Problem", "Task"]

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
"""Every task with a lag by the name that a study file uses."""

DATASETS: dict[str, type[Dataset]] = {dataset.name: dataset for dataset in (Digits, PianoRolls, Text)}
"""Every data set by the name that a study file uses."""
