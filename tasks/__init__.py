"""What has to be remembered: long-lag problems."""

from __future__ import annotations

from tasks.task import Batch, Task
from tasks.temporal_order import TemporalOrder

__all__ = ["TASKS", "Batch", "Task"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (TemporalOrder,)}
"""Every task by the name that a study file uses."""
