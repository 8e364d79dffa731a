"""The indicator series against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import mse_loss

from tasks.indicator import Indicator
from tasks.task import Batch
from tasks_tests.task_book import draws

N = 20_000


def draw(n_sequences: int, length: int) -> Batch:
    return Indicator().sample(draws(n_sequences, seed=length), length)


@pytest.mark.parametrize(("length", "n_late"), [(3, 1), (19, 1), (20, 2), (100, 10)])
def test_sample_has_one_indicator_where_it_should_be(length: int, n_late: int) -> None:
    indicators = draw(N, length).inputs[..., 0] == 1
    assert (indicators.sum(0) == 1).all()
    counts = indicators.sum(1)
    for count, share in zip(counts.tolist(), [1 / 2] + [1 / 2 / n_late] * n_late, strict=False):
        # Six standard errors of a binomial count.
        assert abs(count - N * share) < 6 * math.sqrt(N * share * (1 - share))
    assert (counts[1 + n_late :] == 0).all()


def test_sample_targets_the_next_value_of_the_series() -> None:
    batch = draw(N, 30)
    due = batch.inputs[0, :, 0] == 1
    targets = batch.targets[0, :, 0].double()
    # The indicator comes back after T = 30 steps, and at no other time.
    assert (targets[due] == 1).all()
    assert (targets[~due] < 1).all()
    # Moments of the uniform distribution; six standard errors, from the moments of order 2 and 4.
    n = int((~due).sum())
    assert abs(float(targets[~due].mean()) - 1 / 2) < 6 * math.sqrt(1 / 12 / n)
    assert abs(float(targets[~due].square().mean()) - 1 / 3) < 6 * math.sqrt((1 / 5 - 1 / 9) / n)


def test_sample_tells_nothing_of_the_answer_once_the_indicator_is_over() -> None:
    batch = draw(N, 30)
    values = batch.inputs[..., 0].double()
    due = values[0] == 1
    for t in (4, 17, 29):
        for moment, variance in ((values[t], 1 / 12), (values[t].square(), 1 / 5 - 1 / 9)):
            difference = moment[due].mean() - moment[~due].mean()
            # Six standard errors of a difference of two means of about N / 2 uniform values.
            assert abs(float(difference)) < 6 * math.sqrt(4 * variance / N)


def test_min_lag_is_nine_tenths_of_the_length_less_one() -> None:
    assert [Indicator().min_lag(length) for length in (3, 40, 60, 100)] == [1, 35, 53, 89]


def test_failed_is_an_output_nearer_to_the_wrong_prediction() -> None:
    inputs = torch.full((4, 8, 1), 0.3)
    inputs[0, :4] = 1.0
    inputs[1, 4:] = 1.0
    outputs = torch.tensor([0.76, 0.74, 1.24, 1.26, 0.74, 0.76, 0.26, 0.24])[None, None, :, None]
    # Whatever the random value turns out to be.
    targets = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.9, 0.0, 0.99, 0.24])[None, :, None]
    expected = [False, True, False, True, False, True, False, True]
    assert Indicator().failed(Batch(inputs=inputs, targets=targets), outputs).tolist() == [expected]


def test_loss_of_the_oracle_is_half_the_variance_of_a_uniform_value() -> None:
    batch = draw(N, 30)
    answer = Indicator().oracle(batch).unsqueeze(0)
    expected = mse_loss(answer[0], batch.targets)
    torch.testing.assert_close(Indicator().loss(batch, answer), expected[None])
    # E x^2 / 2 for x = u - 1/2; six standard errors, from E x^4 / 2.
    assert abs(float(expected) - 1 / 24) < 6 * math.sqrt((1 / 160 - 1 / 24**2) / N)
