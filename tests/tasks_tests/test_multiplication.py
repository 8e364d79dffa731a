"""Multiplication against what its papers say; what it shares with adding is tested there and with the marked pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator
from torch.nn.functional import mse_loss

from tasks.marked_pair import TOLERANCES, VARIANTS, Criterion, Variant
from tasks.multiplication import Multiplication
from tasks.task import Batch
from tasks_tests.task_book import draws


def draw(n_sequences: int, length: int) -> Batch:
    return Multiplication().sample(draws(n_sequences, seed=length), length)


def test_sample_targets_the_product_of_the_marked_values() -> None:
    batch = draw(40, 25)
    assert 0 <= float(batch.inputs[..., 0].min()) <= float(batch.inputs[..., 0].max()) <= 1
    for b in range(40):
        first, second = [value for value, mark in batch.inputs[:, b].tolist() if mark]
        # Float32 rounding.
        assert batch.targets[0, b, 0].item() == pytest.approx(first * second, abs=1e-6)


def test_sample_puts_marks_where_adding_does() -> None:
    for length in (4, 9, 10, 100):
        marks = draw(500, length).inputs[..., 1]
        first_end = max(1, length // 10)
        assert (marks[:first_end].sum(0) == 1).all()
        assert (marks[first_end : length // 2].sum(0) == 1).all()
        assert (marks[length // 2 :] == 0).all()


@pytest.mark.parametrize("criterion", TOLERANCES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_chance_error_is_the_least_of_all_constants(variant: Variant, criterion: Criterion) -> None:
    def below(m: float) -> float:
        m = min(max(m, 0.0), 1.0)
        two = m - m * math.log(m) if m > 0 else 0.0
        # In a tenth of Hochreiter & Schmidhuber's sequences one factor is 1.
        return 0.9 * two + 0.1 * m if variant == "hochreiter1997" else two

    tolerance = {"hochreiter1997": 0.04, "pascanu2013": math.sqrt(0.04)}[criterion]
    errors = {c / 1000: 1 - below(c / 1000 + tolerance) + below(c / 1000 - tolerance) for c in range(1001)}
    assert min(errors, key=errors.__getitem__) == tolerance
    assert Multiplication(variant=variant, criterion=criterion).chance_error() == pytest.approx(errors[tolerance])


@pytest.mark.parametrize(("criterion", "limit"), [("hochreiter1997", 0.04), ("pascanu2013", 0.2)])
def test_failed_follows_the_named_paper(criterion: Criterion, limit: float) -> None:
    task, batch = Multiplication(criterion=criterion), draw(5, 20)
    for error, fails in ((limit - 1e-4, False), (1e-4 - limit, False), (limit + 1e-4, True), (-limit - 1e-4, True)):
        assert task.failed(batch, batch.targets.unsqueeze(0) + error).tolist() == [[fails] * 5]


def test_loss_is_the_mean_squared_error_of_each_member() -> None:
    batch = draw(11, 20)
    outputs = torch.randn(3, 1, 11, 1, generator=Generator().manual_seed(0))
    expected = torch.stack([mse_loss(output, batch.targets) for output in outputs])
    torch.testing.assert_close(Multiplication().loss(batch, outputs), expected)
