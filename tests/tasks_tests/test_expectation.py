"""Losses on average over Gaussian outputs: against quadrature and sampled outputs, for every task and data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy, softplus

from models.moment import MOMENTS
from tasks import DATASETS, Batch, Problem
from tasks.expectation import expected_cross_entropy, expected_softplus, logistic_moments
from tasks.task import Task
from tasks_tests.data_files import write_letters, write_rolls
from tasks_tests.task_book import draws, every_task

N_MEMBERS, N_SEQUENCES = 2, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def quadrature(function: Callable[[Tensor], Tensor], mu: Tensor, s: Tensor) -> Tensor:
    """Mean for ``N(mu, s^2)`` by the trapezoidal rule, exact to roundoff for smooth functions."""
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    density = torch.exp(-z * z / 2)
    return function(mu[..., None] + s[..., None] * z) @ (density / density.sum())


def moments_grid() -> tuple[Tensor, Tensor]:
    mu, s = torch.meshgrid(torch.linspace(-12, 12, 97).double(), torch.logspace(-2, 1, 31).double(), indexing="ij")
    return mu.flatten(), s.flatten()


def test_logistic_moments_are_those_of_the_networks_units() -> None:
    mu, s = moments_grid()
    torch.testing.assert_close(logistic_moments(mu, s * s), MOMENTS["logistic"].moments(mu, s * s))


def test_expected_softplus_is_that_of_quadrature() -> None:
    mu, s = moments_grid()
    error = (expected_softplus(mu, s * s) - quadrature(plain_softplus, mu, s)).abs()
    # Measured: 9.5e-10.
    assert float((error / s).max()) < 2e-9


def test_what_noise_adds_to_softplus_is_that_of_quadrature_when_outputs_are_confident() -> None:
    mu, s = moments_grid()
    added = quadrature(plain_softplus, mu, s) - plain_softplus(mu)
    # The mixture ends as normal distributions do: at 12 it has 4e-4 less than the logistic one.
    torch.testing.assert_close(expected_softplus(mu, s * s) - plain_softplus(mu), added, rtol=1e-3, atol=1e-13)


def plain_softplus(y: Tensor) -> Tensor:
    """Torch's breaks off at 20 where it is not told otherwise."""
    return softplus(y, threshold=700)


@pytest.mark.parametrize(("most", "allowed"), [(2.0, 0.2), (4.0, 0.3), (8.0, 0.6)])
@pytest.mark.parametrize("n_out", [2, 3, 4, 10, 50])
def test_what_noise_adds_to_cross_entropy_is_that_of_sampled_outputs(n_out: int, most: float, allowed: float) -> None:
    # The right class, 0, or another one stands out by 0 to 8.
    apart = torch.arange(0.0, 9.0, 2.0, dtype=torch.float64)
    n_answers, n_draws = 2 * len(apart), 10_000
    mu = normal(n_answers, n_out)
    mu[: len(apart), 0] += apart
    mu[len(apart) :, 1] += apart
    s2 = most * torch.rand(n_answers, n_out, generator=Generator().manual_seed(1), dtype=torch.float64)
    noise = s2.sqrt() * normal(n_draws, n_answers, n_out, seed=2)
    # Pairs of opposite noise: what is of first order in it, and adds nothing, cancels.
    added = ((mu + noise).logsumexp(-1) + (mu - noise).logsumexp(-1)) / 2 - mu.logsumexp(-1)
    classes = torch.zeros(n_answers, dtype=torch.int64)
    ours = expected_cross_entropy(mu, s2, classes) - cross_entropy(mu, classes, reduction="none")
    # Measured with up to 20 000 draws: off by up to 0.15, 0.28 and 0.53 of what noise adds; for two classes exact.
    sampling_error = 5 * added.std(0) / n_draws**0.5
    assert ((ours - added.mean(0)).abs() < (allowed if n_out > 2 else 0) * added.mean(0) + sampling_error).all()


def test_expected_cross_entropy_of_two_classes_is_that_of_their_difference() -> None:
    mu, s2 = normal(50, 2), normal(50, 2, seed=1).square()
    classes = torch.arange(50) % 2
    difference = mu.gather(1, 1 - classes[:, None]) - mu.gather(1, classes[:, None])
    expected = expected_softplus(difference[:, 0], s2.sum(1))
    torch.testing.assert_close(expected_cross_entropy(mu, s2, classes), expected)


def draw(problem: Problem, length: int) -> tuple[Batch, Tensor, Tensor]:
    """A batch in double precision, and moments of outputs to it."""
    batch = problem.sample(draws(N_SEQUENCES), length)
    if batch.targets.is_floating_point():
        batch = Batch(inputs=batch.inputs, targets=batch.targets.double())
    sizes = (N_MEMBERS, batch.n_read, N_SEQUENCES, problem.n_out)
    return batch, normal(*sizes), 0.5 * normal(*sizes, seed=1).square()


def assert_expects_its_loss(problem: Problem, length: int, bound: float) -> None:
    batch, mean, variance = draw(problem, length)
    plain, by_mean = problem.loss_and_slope(batch, mean)
    quiet = problem.expected_loss_and_slopes(batch, mean, torch.zeros_like(mean))
    torch.testing.assert_close(quiet[:2], (plain, by_mean), rtol=1e-9, atol=1e-11)
    assert quiet[2].isfinite().all()
    expected, *slopes = problem.expected_loss_and_slopes(batch, mean, variance)
    n_draws = 400
    draws = torch.stack(
        [problem.loss(batch, mean + variance.sqrt() * normal(*mean.shape, seed=7 + n)) for n in range(n_draws)]
    )
    noise = 6 * draws.std(0) / n_draws**0.5
    # Of what the noise adds to the loss; squared errors of linear units are exact.
    assert ((expected - draws.mean(0)).abs() < bound * (draws.mean(0) - plain).abs() + noise).all()
    # In a random direction, by symmetric differences: their error is of the square of the step.
    along = [normal(*mean.shape, seed=3), normal(*mean.shape, seed=4).abs()]
    step = 1e-5
    ends = [
        problem.expected_loss(batch, mean + sign * step * along[0], variance + sign * step * along[1])
        for sign in (1, -1)
    ]
    directional = sum((slope * way).flatten(1).sum(1) for slope, way in zip(slopes, along, strict=True))
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), directional, rtol=1e-6, atol=1e-8)


@every_task
def test_every_task_expects_its_loss(task: Task) -> None:
    assert task.expects_loss
    assert_expects_its_loss(task, max(task.shortest_length, 12), 0.0 if not squashed(task) else 0.25)


def squashed(task: Task) -> bool:
    """Whether the loss is of something else than a linear unit's squared error."""
    return getattr(task, "logistic", True)


@pytest.mark.parametrize("name", ["digits", "text", "piano_rolls"])
def test_every_data_set_expects_its_loss(name: str, tmp_path: Path) -> None:
    files = {"text": write_letters, "piano_rolls": write_rolls}
    dataset = DATASETS[name](**({"path": str(files[name](tmp_path))} if name in files else {}))
    dataset.load()
    # Long enough that some answers of the pieces are not asked.
    assert_expects_its_loss(dataset, dataset.longest_length or 20, 0.1)


def test_expected_losses_have_the_derivatives_of_finite_differences() -> None:
    mu, s2 = normal(3, 4).requires_grad_(), (normal(3, 4, seed=1).square() + 0.01).requires_grad_()
    classes = torch.tensor([0, 3, 1])
    assert gradcheck(lambda m, v: expected_cross_entropy(m, v, classes), (mu, s2))
    assert gradcheck(expected_softplus, (mu, s2))
    assert gradcheck(logistic_moments, (mu, s2))


def test_expected_losses_stay_finite_at_the_ends_of_single_precision() -> None:
    mu = torch.tensor([[-1e4, 0.0, 1e4], [0.0, 0.0, 0.0]]).requires_grad_()
    for s2 in (0.0, 1e-30, 1e8):
        variance = torch.full_like(mu, s2).requires_grad_()
        losses = (expected_cross_entropy(mu, variance, torch.tensor([0, 1])), expected_softplus(mu, variance))
        gradients = torch.autograd.grad(sum(loss.sum() for loss in losses), (mu, variance))
        assert all(part.isfinite().all() for part in (*losses, *gradients))
    assert math.isclose(float(expected_softplus(torch.tensor(0.0), torch.tensor(0.0))), math.log(2), rel_tol=1e-6)
