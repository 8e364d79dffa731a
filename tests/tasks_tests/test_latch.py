"""The latch task against what is known of its paper."""

from __future__ import annotations

import math

import torch
from torch import Generator
from torch.nn.functional import mse_loss

from tasks.latch import Latch
from tasks.task import Batch
from tasks_tests.task_book import draws

N = 20_000


def draw(n_sequences: int, length: int) -> Batch:
    return Latch().sample(draws(n_sequences, seed=length), length)


def test_sample_tells_the_class_in_the_first_three_steps() -> None:
    batch = draw(60, 20)
    for b in range(60):
        k = int(batch.targets[0, b, 0] > 0)
        expected = torch.zeros(20, 6)
        for t in range(3):
            expected[t, 3 * k + t] = 1
        assert torch.equal(batch.inputs[:, b, :6], expected)


def test_sample_draws_targets_of_either_sign_evenly() -> None:
    targets = draw(N, 4).targets
    assert torch.equal(targets.abs(), torch.full_like(targets, 0.8))
    # Six standard errors of a fair coin's count.
    assert abs(int((targets > 0).sum()) - N / 2) < 6 * math.sqrt(N / 4)


def test_sample_adds_gaussian_noise_once_the_class_is_told() -> None:
    batch = draw(2000, 53)
    noise = batch.inputs[..., 6].double()
    assert (noise[:3] == 0).all()
    scaled = noise[3:] / 0.2
    n = scaled.numel()
    # Moments 1, 2, 4 of a standard normal; six standard errors, from the moments of order 2, 4 and 8.
    assert abs(float(scaled.mean())) < 6 * math.sqrt(1 / n)
    assert abs(float(scaled.square().mean()) - 1) < 6 * math.sqrt(2 / n)
    assert abs(float(scaled.pow(4).mean()) - 3) < 6 * math.sqrt(96 / n)
    # It tells nothing of the class.
    assert abs(float((scaled * batch.targets[0, :, 0].sign()).mean())) < 6 * math.sqrt(1 / n)


def test_min_lag_counts_from_the_last_step_that_tells_the_class() -> None:
    assert Latch().min_lag(20) == 17


def test_failed_is_a_wrong_sign() -> None:
    batch = Batch(inputs=torch.zeros(4, 5, 7), targets=torch.tensor([0.8, 0.8, 0.8, -0.8, -0.8])[None, :, None])
    outputs = torch.tensor([0.01, -0.01, 0.0, -3.0, 0.5])[None, None, :, None]
    assert Latch().failed(batch, outputs).tolist() == [[False, True, True, False, True]]


def test_loss_is_half_the_mean_squared_error_of_each_member() -> None:
    batch = draw(11, 20)
    outputs = torch.randn(3, 1, 11, 1, generator=Generator().manual_seed(0))
    expected = torch.stack([mse_loss(output, batch.targets) / 2 for output in outputs])
    torch.testing.assert_close(Latch().loss(batch, outputs), expected)
