"""Parity against its definition."""

from __future__ import annotations

import math

import torch
from torch import Generator
from torch.nn.functional import mse_loss

from tasks.parity import Parity
from tasks.task import Batch
from tasks_tests.task_book import draws

N = 20_000


def draw(n_sequences: int, length: int) -> Batch:
    return Parity().sample(draws(n_sequences, seed=length), length)


def test_sample_targets_the_parity_of_minus_signs() -> None:
    for length in (2, 3, 50):
        batch = draw(60, length)
        for b in range(60):
            n_minus = batch.inputs[:, b, 0].tolist().count(-1.0)
            assert math.isclose(batch.targets[0, b, 0].item(), 0.8 if n_minus % 2 == 0 else -0.8, rel_tol=1e-6)


def test_sample_draws_signs_and_parities_evenly_and_apart() -> None:
    batch = draw(N, 30)
    assert ((batch.inputs == 1) | (batch.inputs == -1)).all()
    # Six standard errors of a sum of fair signs, of each step, of the answer, and of their product.
    answers = batch.targets[0, :, 0].sign()
    for sums in (batch.inputs[..., 0].sum(1), answers.sum(), (batch.inputs[..., 0] * answers).sum(1)):
        assert (sums.abs() < 6 * math.sqrt(N)).all()


def test_every_step_turns_the_answer_over() -> None:
    batch = draw(20, 15)
    for t in range(15):
        turned = batch.inputs.clone()
        turned[t] *= -1
        answer = Parity().oracle(Batch(inputs=turned, targets=batch.targets))
        assert torch.equal(answer, -batch.targets)


def test_min_lag_is_from_the_first_step_to_the_last() -> None:
    assert Parity().min_lag(100) == 99


def test_failed_is_a_wrong_sign() -> None:
    batch = Batch(inputs=torch.zeros(4, 4, 1), targets=torch.tensor([0.8, 0.8, -0.8, -0.8])[None, :, None])
    outputs = torch.tensor([0.01, 0.0, -3.0, 0.5])[None, None, :, None]
    assert Parity().failed(batch, outputs).tolist() == [[False, True, False, True]]


def test_loss_is_half_the_mean_squared_error_of_each_member() -> None:
    batch = draw(11, 20)
    outputs = torch.randn(3, 1, 11, 1, generator=Generator().manual_seed(0))
    expected = torch.stack([mse_loss(output, batch.targets) / 2 for output in outputs])
    torch.testing.assert_close(Parity().loss(batch, outputs), expected)
