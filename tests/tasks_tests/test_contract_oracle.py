"""What every task's oracle and verdicts must hold: a perfect memory fails only by noise, a constant by chance."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from tasks import Batch, Task
from tasks_tests.task_book import draw, every_task, lengths, oracle, variants

certain_task = pytest.mark.parametrize("task", [variant for variant in variants() if not variant.values[0].noisy])
noisy_task = pytest.mark.parametrize("task", [variant for variant in variants() if variant.values[0].noisy])


@every_task
def test_oracle_fails_as_much_as_it_says_and_nothing_without_noise(task: Task) -> None:
    error = task.oracle_error()
    assert error == 0 or task.noisy
    for length in lengths(task):
        batch = draw(task, 500, length)
        answer = oracle(task, batch.inputs)
        assert answer.shape == (batch.n_read, 500, task.n_out)
        failed = task.failed(batch, answer.unsqueeze(0))
        assert failed.dtype == torch.bool
        assert failed.shape == (1, 500)
        # Six standard errors of a binomial share; none where there is no noise.
        assert abs(float(failed.double().mean()) - error) <= 6 * math.sqrt(error * (1 - error) / 500)


@certain_task
def test_oracle_has_the_lowest_loss(task: Task) -> None:
    batch = draw(task, 50, 40)
    answer = oracle(task, batch.inputs).unsqueeze(0)
    least = task.loss(batch, answer)
    assert torch.allclose(least, torch.zeros(1), atol=1e-12)
    for seed, scale in enumerate((1e-3, 0.1, 1.0, 10.0)):
        noise = scale * torch.randn(100, *answer.shape[1:], generator=Generator().manual_seed(seed))
        assert (task.loss(batch, answer + noise) >= least).all()
    assert (task.loss(batch, answer.roll(1, dims=2)) > least + 0.01).all()


def many(task: Task, length: int) -> int:
    """Sequences for a test of shares and means: 20 000, or as many as have two million outputs."""
    return min(20_000, 2_000_000 // (draw(task, 1, length).n_read * task.n_out))


def loss_of_each(task: Task, batch: Batch, output: Tensor) -> Tensor:
    """Loss of each sequence by itself, ``[B]``, by making a member of it."""
    inputs, targets, outputs = (values.transpose(0, 1).unsqueeze(2) for values in (batch.inputs, batch.targets, output))
    return task.loss(Batch(inputs=inputs, targets=targets), outputs)


@noisy_task
def test_oracle_has_the_lowest_expected_loss_when_the_task_is_noisy(task: Task) -> None:
    n_sequences = many(task, 25)
    batch = draw(task, n_sequences, 25)
    answer = oracle(task, batch.inputs)
    least = loss_of_each(task, batch, answer)
    # The noise is there: no task escapes the test of its exact losses by calling itself noisy.
    assert least.mean() > 1e-6
    noise = torch.randn(answer.shape, generator=Generator().manual_seed(0))
    others = [answer + scale * noise for scale in (0.1, 1.0, 10.0)]
    others += [answer + shift for shift in (-0.5, -0.1, 0.1, 0.5)]
    others += [answer * factor for factor in (0.5, 0.9, 1.1, 2.0)]
    for other in others:
        gains = (least - loss_of_each(task, batch, other)).double()
        # Six standard errors, and the rounding of losses that a softmax makes equal.
        assert float(gains.mean()) < 6 * float(gains.std()) / math.sqrt(n_sequences) + 1e-6
    assert loss_of_each(task, batch, answer.roll(1, dims=1)).mean() > least.mean() + 0.01


@every_task
def test_chance_error_is_that_of_the_best_constant(task: Task) -> None:
    # Answers to other sequences serve as constants: among 100 of them one is as good as the best, near enough.
    chance = task.chance_error()
    # A limit for long sequences is attained where no constant suits any of them.
    length = 25 if chance < 1 else 100
    n_sequences = many(task, length)
    constants = oracle(task, draw(task, 100, length, seed=1).inputs).transpose(0, 1).unsqueeze(2)
    batch = draw(task, n_sequences, length)
    best = min(float(task.failed(batch, c[None].expand(-1, -1, n_sequences, -1)).double().mean()) for c in constants)
    standard_error = math.sqrt(chance * (1 - chance) / n_sequences)
    # Five standard errors are one false alarm in a million; the sixth pays for taking the best of several.
    assert abs(best - chance) <= 6 * standard_error


@every_task
def test_failed_counts_nan_in_any_place(task: Task) -> None:
    batch = draw(task, 6, 30)
    answer = oracle(task, batch.inputs)
    # Noise may have the oracle fail; not the sequence whose output is replaced, or nothing would be seen.
    failed = task.failed(batch, answer.unsqueeze(0))
    assert task.noisy or not failed.any()
    assert not failed[0, 4]
    for read, line in itertools.product(range(batch.n_read), range(task.n_out)):
        outputs = answer.repeat(3, 1, 1, 1)
        outputs[1, read, 4, line] = math.nan
        outputs[2] = math.nan
        expected = failed.repeat(3, 1)
        expected[1, 4] = True
        expected[2] = True
        assert torch.equal(task.failed(batch, outputs), expected)
