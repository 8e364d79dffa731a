"""Adding against what its papers say; the marks of Hochreiter & Schmidhuber's variant are the marked pair's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator
from torch.nn.functional import mse_loss

from tasks.adding import Adding
from tasks.marked_pair import TOLERANCES, VARIANTS, Criterion, Variant
from tasks.task import Batch
from tasks_tests.task_book import draws

N = 20_000


def draw(n_sequences: int, length: int) -> Batch:
    return Adding().sample(draws(n_sequences, seed=length), length)


def test_sample_puts_marks_where_the_paper_does() -> None:
    marks = draw(N, 100).inputs[..., 1]
    steps = marks.T.nonzero()[:, 1].view(N, 2)
    for place, (low, high) in enumerate(((0, 10), (10, 50))):
        counts = steps[:, place].bincount(minlength=100)
        assert counts[low:high].sum() == N
        share = 1 / (high - low)
        # Six standard errors of a binomial count.
        assert ((counts[low:high] - N * share).abs() < 6 * math.sqrt(N * share * (1 - share))).all()


def test_min_lag_is_nine_tenths_of_the_length() -> None:
    assert Adding().min_lag(100) == 90


def test_sample_has_two_marks_at_every_length() -> None:
    for length in range(Adding.shortest_length, 130):
        marks = draw(100, length).inputs[..., 1]
        assert ((marks == 0) | (marks == 1)).all()
        assert (marks.sum(0) == 2).all()
        # Both in the first half, as the paper has them.
        assert (marks[length // 2 :] == 0).all()


def test_sample_draws_values_uniformly() -> None:
    values = draw(2000, 50).inputs[..., 0].double()
    assert 0 <= float(values.min()) <= float(values.max()) <= 1
    # Moments of the uniform distribution; six standard errors, from the moments of order 2 and 4.
    assert abs(float(values.mean()) - 1 / 2) < 6 * math.sqrt(1 / 12 / values.numel())
    assert abs(float(values.square().mean()) - 1 / 3) < 6 * math.sqrt((1 / 5 - 1 / 9) / values.numel())


def test_sample_targets_the_mean_of_the_marked_values() -> None:
    batch = draw(40, 25)
    for b in range(40):
        first, second = [value for value, mark in batch.inputs[:, b].tolist() if mark]
        # Float32 rounding.
        assert batch.targets[0, b, 0].item() == pytest.approx((first + second) / 2, abs=1e-6)
        # Hochreiter & Schmidhuber's target, of values on [-1, 1], is the same number.
        assert batch.targets[0, b, 0].item() == pytest.approx(0.5 + (2 * first - 1 + 2 * second - 1) / 4, abs=1e-6)


@pytest.mark.parametrize("criterion", TOLERANCES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_chance_error_is_the_least_of_all_constants(variant: Variant, criterion: Criterion) -> None:
    # Distribution function of the mean of two uniform numbers (Irwin-Hall, n = 2).
    def below(m: float) -> float:
        m = min(max(m, 0.0), 1.0)
        two = 2 * m**2 if m <= 0.5 else 1 - 2 * (1 - m) ** 2
        # In a tenth of Hochreiter & Schmidhuber's sequences one number is 0, the middle of their range.
        return 0.9 * two + 0.1 * min(max(2 * m - 0.5, 0.0), 1.0) if variant == "hochreiter1997" else two

    tolerance = {"hochreiter1997": 0.04, "pascanu2013": math.sqrt(0.04)}[criterion]
    errors = {c / 1000: 1 - below(c / 1000 + tolerance) + below(c / 1000 - tolerance) for c in range(1001)}
    assert min(errors, key=errors.__getitem__) == 0.5
    assert Adding(variant=variant, criterion=criterion).chance_error() == pytest.approx(errors[0.5])


@pytest.mark.parametrize(
    ("criterion", "error", "fails"),
    [
        ("hochreiter1997", 0.0399, False),
        ("hochreiter1997", -0.0399, False),
        ("hochreiter1997", 0.0401, True),
        ("hochreiter1997", -0.0401, True),
        ("pascanu2013", 0.1999, False),
        ("pascanu2013", -0.1999, False),
        ("pascanu2013", 0.2001, True),
        ("pascanu2013", -0.2001, True),
        ("pascanu2013", math.inf, True),
    ],
)
def test_failed_follows_the_named_paper(criterion: Criterion, error: float, fails: bool) -> None:
    batch = draw(5, 20)
    failed = Adding(criterion=criterion).failed(batch, batch.targets.unsqueeze(0) + error)
    assert failed.tolist() == [[fails] * 5]


def test_loss_is_the_mean_squared_error_of_each_member() -> None:
    batch = draw(11, 20)
    outputs = torch.randn(3, 1, 11, 1, generator=Generator().manual_seed(0))
    expected = torch.stack([mse_loss(output, batch.targets) for output in outputs])
    torch.testing.assert_close(Adding().loss(batch, outputs), expected)
