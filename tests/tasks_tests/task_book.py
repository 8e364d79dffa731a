"""What tests of every task share: all tasks in each of their variants, read off their constructors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from study.training.draw import StreamDraws, keys
from tasks import TASKS, Batch, Draws, Problem, Task
from tasks.variant import variant_parameters


def closed_parameters(kind: type[Task]) -> dict[str, tuple[Any, ...]]:
    return {name: one.values for name, one in variant_parameters(kind).items() if one.values}


def variants() -> Iterator[Any]:
    for name, kind in TASKS.items():
        closed = closed_parameters(kind)
        for values in itertools.product(*closed.values()):
            yield pytest.param(kind(**dict(zip(closed, values, strict=True))), id="-".join((name, *map(str, values))))


every_task = pytest.mark.parametrize("task", list(variants()))


def draws(n_sequences: int, *, seed: int = 0) -> Draws:
    return StreamDraws(keys((seed,), "batch"), 0, n_sequences)


def draw(task: Task, n_sequences: int, length: int, seed: int = 0) -> Batch:
    return task.sample(draws(n_sequences, seed=seed), length)


def of_each_stream_alone(problem: Problem, length: int) -> None:
    streams = keys((1, 2, 3), "batch")
    together = problem.sample(StreamDraws(streams, 7, 5), length)
    for k in range(3):
        alone = problem.sample(StreamDraws(streams[k : k + 1], 7, 5), length)
        assert torch.equal(together.inputs[:, 5 * k : 5 * k + 5], alone.inputs)
        torch.testing.assert_close(
            together.targets[:, 5 * k : 5 * k + 5], alone.targets, rtol=0, atol=0, equal_nan=True
        )


def lengths(task: Task) -> tuple[int, ...]:
    least = task.shortest_length
    return (least, least + 1, least + 6, least + 33, 100, 250)


def oracle(task: Task, inputs: Tensor) -> Tensor:
    # The targets are none of the oracle's business.
    return task.oracle(Batch(inputs=inputs, targets=torch.empty(0)))
