"""Recorded updates are those that are launched one by one: on a GPU by themselves, without one by a stand-in."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from study.plan import StackPlan
from study.training import recording, stack
from study.training.recording import Recorded
from study.training.stack import Stack
from study_tests import stack_book
from tasks import TASKS

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@dataclass(frozen=True, kw_only=True)
class Given:
    values: Tensor
    more: Tensor | None = None


class Graph:
    """Repeats what was done while it was recorded, as a GPU's graph does."""

    recorded: Callable[[], None]

    def replay(self) -> None:
        self.recorded()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether garbage was collected during each recording."""
    during: list[bool] = []

    @contextmanager
    def record(graph: Graph, **options: Any) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        during.append(gc.isenabled())
        yield

    monkeypatch.setattr(recording.torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(recording.torch.cuda, "graph", record)
    monkeypatch.setattr(recording.torch.cuda, "graph_pool_handle", lambda: None)
    return during


class Doubling:
    """Doubles what it is given; what it did last is what a graph that records it repeats."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, given: Given, other: Given | None, **options: bool) -> dict[str, Tensor]:
        self.n_calls += 1
        doubled = 2 * given.values

        def again() -> None:
            torch.mul(given.values, 2, out=doubled)

        Graph.recorded = staticmethod(again)
        return {"doubled": doubled}


def test_a_function_is_called_once_then_recorded_and_repeated(graphs: list[bool]) -> None:
    function = Doubling()
    doubled = Recorded(function)
    for n in range(1, 6):
        found = doubled(Given(values=torch.full((3,), float(n))), None)
        assert found["doubled"].tolist() == [2.0 * n] * 3
    # By itself, and for the record.
    assert function.n_calls == 2
    assert graphs == [False]
    assert gc.isenabled()


def test_every_shape_has_its_own_record(graphs: list[bool]) -> None:
    function = Doubling()
    doubled = Recorded(function)
    shapes = (torch.ones(2), torch.ones(3), torch.ones(2, dtype=torch.float64))
    for _ in range(2):
        for values in shapes:
            assert doubled(Given(values=values), None)["doubled"].shape == values.shape
    assert len(graphs) == len(shapes)
    # What is not given is part of the shape, and so are options.
    doubled(Given(values=shapes[0], more=shapes[0]), None)
    doubled(Given(values=shapes[0]), None, reported=True)
    assert function.n_calls == 2 * len(shapes) + 2


def test_a_function_that_cannot_be_recorded_is_told_of_once_and_called(graphs: list[bool]) -> None:
    calls = []

    def waiting(given: Given) -> dict[str, Tensor]:
        calls.append(given)
        if len(graphs) > 0 and len(calls) == 2:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        return {"added": given.values + 1}

    added = Recorded(waiting)
    numbers = [torch.full((1,), float(n)) for n in range(4)] + 2 * [torch.ones(2)]
    with pytest.warns(UserWarning, match="slower.*not permitted when stream is capturing\\)$") as told:
        found = [added(Given(values=values))["added"].tolist() for values in numbers]
    assert found == [[1.0], [2.0], [3.0], [4.0], [2.0, 2.0], [2.0, 2.0]]
    assert len(told) == 1
    assert gc.isenabled()


def trained(plan: StackPlan, monkeypatch: pytest.MonkeyPatch, *, recorded: bool) -> tuple[Tensor, str]:
    with monkeypatch.context() as patch:
        if not recorded:
            patch.setattr(stack, "Recorded", lambda function: function)
        made = Stack(plan)
        made.train(12)
        made.compact([0, 2, 3])
        # As text, in which NaN is NaN.
        return made.flat.cpu(), str(made.train(12))


CASES = [stack_book.plan("elman_tanh", task=name) for name in TASKS]
CASES += [stack_book.plan(cell) for cell in ("lstm", "gru", "lstm_1997", "min_gru", "untied_tanh", "leaky_tanh")]
CASES += [
    stack_book.plan("elman_tanh", dropout, batches) for dropout in ("dropout", "fast") for batches in ("shared", "own")
]
CASES += [stack_book.plan("elman_tanh", dropout, task="adding") for dropout in ("dropout", "fast")]


@on_gpu
@pytest.mark.parametrize("plan", CASES, ids=lambda plan: f"{plan.cell}-{plan.task.name}-{plan.dropout}")
def test_recorded_updates_are_those_launched_one_by_one(plan: StackPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    shortest = max(plan.training.shortest, TASKS[plan.task.name]().shortest_length)
    plan = replace(plan, device="cuda", training=replace(plan.training, shortest=shortest, longest=shortest + 6))
    found, expected = (trained(plan, monkeypatch, recorded=recorded) for recorded in (True, False))
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]
