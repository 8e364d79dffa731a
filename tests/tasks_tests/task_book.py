"""What tests of every task share: all tasks in each of their variants, read off their constructors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Generator, Tensor

from tasks import TASKS, Batch, Task


def closed_parameters(kind: type[Task]) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(kind.__init__)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def variants() -> Iterator[Any]:
    for name, kind in TASKS.items():
        closed = closed_parameters(kind)
        for values in itertools.product(*closed.values()):
            yield pytest.param(kind(**dict(zip(closed, values, strict=True))), id="-".join((name, *map(str, values))))


every_task = pytest.mark.parametrize("task", list(variants()))


def draw(task: Task, n_sequences: int, length: int, seed: int = 0) -> Batch:
    return task.sample(Generator().manual_seed(seed), n_sequences, length)


def lengths(task: Task) -> tuple[int, ...]:
    least = task.shortest_length
    return (least, least + 1, least + 6, least + 33, 100, 250)


def oracle(task: Task, inputs: Tensor) -> Tensor:
    # The targets are none of the oracle's business.
    return task.oracle(Batch(inputs=inputs, targets=torch.empty(0)))
