"""Recorded updates are those that are launched one by one: on a GPU by themselves, without one by a stand-in."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from study.plan import StackPlan
from study.training import recording, stack
from study.training.recording import Recorder
from study.training.stack import Stack
from study_tests import stack_book
from tasks import TASKS, Batch
from tasks.temporal_order import TemporalOrder

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

WAITS = "called a synchronizing CUDA operation"


@dataclass(frozen=True, kw_only=True)
class Given:
    values: Tensor
    more: Tensor | None = None


class Graph:
    """Repeats what was done while it was recorded, as a GPU's graph does."""

    again: Callable[[], None]

    def replay(self) -> None:
        self.again()


class Doubling:
    """Doubles what it is given, and tells the graph that is being recorded how to do so again."""

    def __init__(self) -> None:
        self.n_calls, self.recorded = 0, None

    def __call__(self, given: Given, other: Given | None, **options: bool) -> dict[str, Tensor]:
        self.n_calls += 1
        doubled = 2 * given.values
        if Recording.graph is not None:
            Recording.graph.again = lambda: torch.mul(given.values, 2, out=doubled)
        return {"doubled": doubled}


class Recording:
    """What the stand-in for torch.cuda saw."""

    graph: Graph | None = None
    n: int = 0
    collected: bool = False


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    @contextmanager
    def record(graph: Graph, **options: Any) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        Recording.graph, Recording.n, Recording.collected = graph, Recording.n + 1, gc.isenabled()
        try:
            yield
        finally:
            Recording.graph = None

    Recording.n = 0
    cuda = recording.torch.cuda
    stand_ins = {"CUDAGraph": Graph, "graph": record, "graph_pool_handle": lambda: None, "stream": nullcontext}
    stand_ins |= {"current_stream": lambda: None, "get_sync_debug_mode": lambda: 0}
    for name, one in {**stand_ins, "set_sync_debug_mode": lambda mode: None}.items():
        monkeypatch.setattr(cuda, name, one)
    return Recording


def test_a_function_is_called_twice_then_recorded_and_repeated(seen: type[Recording]) -> None:
    function, recorder = Doubling(), Recorder()
    for n in range(1, 7):
        found = recorder(function, Given(values=torch.full((3,), float(n))), None)
        assert found["doubled"].tolist() == [2.0 * n] * 3
    # Twice by itself, and for the record.
    assert function.n_calls == 3
    assert seen.n == 1
    assert not seen.collected
    assert gc.isenabled()


def test_every_shape_has_its_own_record(seen: type[Recording]) -> None:
    function, recorder = Doubling(), Recorder()
    shapes = (torch.ones(2), torch.ones(3), torch.ones(2, dtype=torch.float64))
    for n in range(5):
        for values in shapes:
            found = recorder(function, Given(values=n * values), None)["doubled"]
            torch.testing.assert_close(found, 2 * n * values, rtol=0, atol=0)
    assert seen.n == len(shapes)
    # What is not given is part of the shape, and so are options.
    recorder(function, Given(values=shapes[0], more=shapes[0]), None)
    recorder(function, Given(values=shapes[0]), None, reported=True)
    assert function.n_calls == 3 * len(shapes) + 2


def test_what_would_take_too_much_room_is_not_recorded(seen: type[Recording], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "ROOM", 100)
    function, recorder = Doubling(), Recorder()
    for size in (20, 20, 20, 20, 6, 6, 6, 6):
        assert recorder(function, Given(values=torch.ones(size)), None)["doubled"].tolist() == [2.0] * size
    assert seen.n == 1


def test_a_function_that_waits_is_told_of_once_and_never_recorded(seen: type[Recording]) -> None:
    def waiting(given: Given) -> dict[str, Tensor]:
        warnings.warn(WAITS, stacklevel=1)
        return {"added": given.values + 1}

    recorder, told = Recorder(), []
    for n in (0, 1, 2, 3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert recorder(waiting, Given(values=torch.full((1,), float(n))))["added"].tolist() == [n + 1.0]
        told.append([str(one.message) for one in caught if str(one.message) != WAITS])
    assert told == [[], [f"training on a GPU will be slower: an update cannot be recorded ({WAITS})"], [], []]
    assert seen.n == 0


def test_other_warnings_are_passed_on_and_a_failed_recording_is_told_of(seen: type[Recording]) -> None:
    def function(given: Given) -> dict[str, Tensor]:
        if seen.graph is not None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        warnings.warn("mind the gap", stacklevel=1)
        return {"added": given.values + 1}

    recorder = Recorder()
    with pytest.warns(UserWarning, match="slower.*not permitted when stream is capturing\\)$|mind the gap") as told:
        found = [recorder(function, Given(values=torch.full((1,), float(n))))["added"].tolist() for n in range(5)]
    assert found == [[1.0], [2.0], [3.0], [4.0], [5.0]]
    assert sum("slower" in str(one.message) for one in told) == 1
    assert sum("gap" in str(one.message) for one in told) == 5
    assert seen.n == 1
    assert gc.isenabled()


def test_a_stack_is_freed_without_a_garbage_collection() -> None:
    made = Stack(stack_book.plan("elman_tanh"))
    made.train(2)
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert gone() is None
    finally:
        gc.enable()


def trained(plan: StackPlan, monkeypatch: pytest.MonkeyPatch, *, recorded: bool) -> tuple[Tensor, str]:
    with monkeypatch.context() as patch:
        if not recorded:
            patch.setattr(stack, "Recorder", lambda: None)
        made = Stack(plan)
        told = [made.train(4) for _ in range(6)]
        made.compact([0, 2, 3])
        told += [made.train(4) for _ in range(6)]
        made = Stack.from_bytes(plan, made.to_bytes())
        told += [made.train(4) for _ in range(6)]
        # As text, in which NaN is NaN.
        return made.flat.cpu(), str(told)


CASES = [stack_book.plan("elman_tanh", task=name) for name in TASKS]
CASES += [stack_book.plan(cell) for cell in ("lstm", "gru", "lstm_1997", "min_gru", "untied_tanh", "leaky_tanh")]
CASES += [
    stack_book.plan("elman_tanh", dropout, batches) for dropout in ("dropout", "fast") for batches in ("shared", "own")
]
CASES += [stack_book.plan("elman_tanh", dropout, task="adding") for dropout in ("dropout", "fast")]
CASES += [stack_book.charged(stack_book.plan("elman_tanh"), paying) for paying in stack_book.PAYING.values()]


def on_device(plan: StackPlan) -> StackPlan:
    """Of three lengths, so that each comes again and again."""
    shortest = max(plan.training.shortest, TASKS[plan.task.name]().shortest_length)
    return replace(plan, device="cuda", training=replace(plan.training, shortest=shortest, longest=shortest + 2))


@on_gpu
@pytest.mark.parametrize("plan", CASES, ids=lambda plan: f"{plan.cell}-{plan.task.name}-{plan.dropout}")
def test_recorded_updates_are_those_launched_one_by_one(plan: StackPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    found, expected = (trained(on_device(plan), monkeypatch, recorded=recorded) for recorded in (True, False))
    assert torch.equal(found[0], expected[0])
    assert found[1] == expected[1]


@on_gpu
def test_a_loss_that_waits_and_a_cell_that_does_train_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TemporalOrder.loss_and_slope

    def waiting(self: TemporalOrder, batch: Batch, output: Tensor) -> tuple[Tensor, Tensor]:
        found = whole(self, batch, output)
        assert found[0].sum().item() is not None
        return found

    stream = torch.cuda.current_stream()
    for plan, loss in ((stack_book.plan("elman_tanh"), waiting), (stack_book.plan("orthogonal_tanh"), whole)):
        with monkeypatch.context() as patch:
            patch.setattr(TemporalOrder, "loss_and_slope", loss)
            with pytest.warns(UserWarning, match="training on a GPU will be slower"):
                found = trained(on_device(plan), monkeypatch, recorded=True)
            expected = trained(on_device(plan), monkeypatch, recorded=False)
        assert torch.equal(found[0], expected[0])
        assert found[1] == expected[1]
    assert torch.cuda.current_stream() == stream
