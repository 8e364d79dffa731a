"""Where the two marks stand, and what the values are, in Hochreiter & Schmidhuber's tasks 4 and 5."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from tasks.adding import Adding
from tasks.marked_pair import MarkedPair
from tasks.multiplication import Multiplication
from tasks.task import Batch
from tasks_tests.task_book import draws

N = 20_000

both_tasks = pytest.mark.parametrize("kind", [Adding, Multiplication])


def draw(kind: type[MarkedPair], n_sequences: int, length: int) -> Batch:
    return kind(variant="hochreiter1997").sample(draws(n_sequences, seed=length), length)


def seen(batch: Batch) -> list[tuple[int, ...]]:
    """Steps of each sequence whose marker is 1."""
    steps: list[list[int]] = [[] for _ in range(batch.inputs.shape[1])]
    for b, step in (batch.inputs[..., 1] == 1).T.nonzero().tolist():
        steps[b].append(step)
    return [tuple(each) for each in steps]


def first_mark(k: int, half: int) -> int:
    """Step of the first mark if its lot, one of ten, is k: those beyond the first half count on from step 1."""
    while k >= half:
        k -= half - 1
    return k


@pytest.mark.parametrize("length", [100, 31, 12, 5])
def test_sample_puts_marks_where_the_first_paper_does(length: int) -> None:
    half = length // 2
    expected: Counter[tuple[int, ...]] = Counter()
    for k in range(10):
        first = first_mark(k, half)
        # The first T/2 - 1 steps that are still unmarked, step 0 aside.
        left = [step for step in range(1, length) if step != first][: half - 1]
        for second in left:
            expected[tuple(sorted({first, second} - {0}))] += N / 10 / len(left)
    found = Counter(seen(draw(Adding, N, length)))
    assert set(found) <= set(expected)
    for steps, mean in expected.items():
        # Six standard errors, and one more count where few are expected.
        assert abs(found[steps] - mean) < 6 * math.sqrt(mean) + 1


def test_sample_marks_one_of_the_first_ten_whatever_the_length() -> None:
    for length in (20, 100, 500):
        steps = seen(draw(Adding, 2000, length))
        assert all(min(pair) < 10 for pair in steps if len(pair) == 2)
        assert max(max(pair) for pair in steps) <= length // 2


@both_tasks
def test_sample_marks_both_ends_by_minus_one(kind: type[MarkedPair]) -> None:
    for length in range(kind.shortest_length, 130):
        marks = draw(kind, 50, length).inputs[..., 1]
        assert (marks[[0, -1]] == -1).all()
        assert ((marks[1:-1] == 0) | (marks[1:-1] == 1)).all()
        n_marked = marks[1:-1].sum(0)
        assert ((n_marked == 1) | (n_marked == 2)).all()


@both_tasks
def test_sample_replaces_the_value_of_a_marked_first_step(kind: type[MarkedPair]) -> None:
    batch = draw(kind, N, 100)
    hidden = torch.tensor([len(steps) == 1 for steps in seen(batch)])
    # Six standard errors of a tenth of the sequences.
    assert abs(int(hidden.sum()) - N / 10) < 6 * math.sqrt(N * 0.1 * 0.9)
    neutral = {Adding: 0.0, Multiplication: 1.0}[kind]
    assert (batch.inputs[0, hidden, 0] == neutral).all()
    assert (batch.inputs[0, ~hidden, 0] != neutral).double().mean() > 0.999


@pytest.mark.parametrize(("kind", "low"), [(Adding, -1), (Multiplication, 0)])
def test_sample_draws_values_uniformly(kind: type[MarkedPair], low: int) -> None:
    values = draw(kind, 2000, 51).inputs[1:, :, 0].double()
    assert low <= float(values.min()) <= float(values.max()) <= 1
    uniform = (values - low) / (1 - low)
    # Moments of the uniform distribution; six standard errors, from the moments of order 2 and 4.
    assert abs(float(uniform.mean()) - 1 / 2) < 6 * math.sqrt(1 / 12 / values.numel())
    assert abs(float(uniform.square().mean()) - 1 / 3) < 6 * math.sqrt((1 / 5 - 1 / 9) / values.numel())


@both_tasks
def test_sample_targets_what_the_paper_does(kind: type[MarkedPair]) -> None:
    batch = draw(kind, 200, 25)
    for b, steps in enumerate(seen(batch)):
        values = [batch.inputs[step, b, 0].item() for step in steps]
        if kind is Adding:
            first, second = (*values, 0.0)[:2]
            expected = 0.5 + (first + second) / 4
        else:
            first, second = (*values, 1.0)[:2]
            expected = first * second
        # Float32 rounding.
        assert batch.targets[0, b, 0].item() == pytest.approx(expected, abs=1e-6)


@both_tasks
def test_min_lag_is_half_the_length_as_the_paper_says(kind: type[MarkedPair]) -> None:
    task = kind(variant="hochreiter1997")
    assert [task.min_lag(length) for length in (100, 500, 1000)] == [50, 250, 500]


@both_tasks
def test_failed_and_loss_are_of_the_logistic_unit(kind: type[MarkedPair]) -> None:
    task, batch = kind(variant="hochreiter1997"), draw(kind, 50, 20)
    # Away from the ends of the unit's range, where the error asked for could not be made.
    batch = Batch(inputs=batch.inputs, targets=batch.targets.clamp(0.1, 0.9))
    for error, fails in ((0.039, False), (-0.039, False), (0.041, True), (-0.041, True)):
        output = (batch.targets + error).logit().unsqueeze(0)
        assert task.failed(batch, output).tolist() == [[fails] * 50]
        # Float32 rounding.
        torch.testing.assert_close(task.loss(batch, output), torch.tensor([error**2]), rtol=1e-4, atol=0)
