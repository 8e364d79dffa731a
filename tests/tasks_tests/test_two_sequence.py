"""The two-sequence problem against what Hochreiter & Schmidhuber say of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Normal
from torch.nn.functional import mse_loss

from tasks.task import Batch
from tasks.two_sequence import FORMS, N_INFORMATIVE, NInformative, TwoSequence, Variant
from tasks_tests.task_book import draws

N = 20_000

every_variant = pytest.mark.parametrize("variant", FORMS)
every_n = pytest.mark.parametrize("n_informative", N_INFORMATIVE)


def draw(variant: Variant, n_informative: NInformative, n_sequences: int, length: int) -> Batch:
    task = TwoSequence(variant=variant, n_informative=n_informative)
    return task.sample(draws(n_sequences, seed=length), length)


def assert_normal(values: Tensor, variance: float) -> None:
    scaled = values.double() / math.sqrt(variance)
    n = scaled.numel()
    # Moments 1, 2, 4 of a standard normal; six standard errors, from the moments of order 2, 4 and 8.
    assert abs(float(scaled.mean())) < 6 * math.sqrt(1 / n)
    assert abs(float(scaled.square().mean()) - 1) < 6 * math.sqrt(2 / n)
    assert abs(float(scaled.pow(4).mean()) - 3) < 6 * math.sqrt(96 / n)


@every_n
@pytest.mark.parametrize("variant", ["bengio1994", "hochreiter1997_3a"])
def test_sample_tells_the_class_by_its_first_elements(variant: Variant, n_informative: NInformative) -> None:
    batch = draw(variant, n_informative, N, 12)
    assert ((batch.targets == 0) | (batch.targets == 1)).all()
    signs = 2 * batch.targets - 1
    assert torch.equal(batch.inputs[:n_informative], signs.expand(n_informative, -1, -1))
    # Six standard errors of a fair coin's count.
    assert abs(float(signs.sum())) < 6 * math.sqrt(N)


@every_variant
@every_n
def test_sample_has_noise_of_variance_a_fifth_after_the_class_is_told(
    variant: Variant, n_informative: NInformative
) -> None:
    batch = draw(variant, n_informative, 2000, 53)
    noise = batch.inputs[n_informative:, :, 0]
    assert_normal(noise, 0.2)
    # It tells nothing of the class.
    told = noise.double() * batch.inputs[0, :, 0].sign()
    assert abs(float(told.mean())) < 6 * math.sqrt(0.2 / noise.numel())


@every_n
def test_sample_has_noise_on_the_informative_elements_in_3b(n_informative: NInformative) -> None:
    batch = draw("hochreiter1997_3b", n_informative, N, 12)
    assert ((batch.targets == 0) | (batch.targets == 1)).all()
    assert_normal(batch.inputs[:n_informative] - (2 * batch.targets - 1), 0.2)


@every_n
def test_sample_has_noise_on_the_targets_in_3c(n_informative: NInformative) -> None:
    batch = draw("hochreiter1997_3c", n_informative, N, 12)
    told = batch.inputs[:n_informative]
    assert ((told == 1) | (told == -1)).all()
    assert (told == told[0]).all()
    # Conditional expectations 0.8 and 0.2; noise of variance 0.1.
    for sign, clean in ((1, 0.8), (-1, 0.2)):
        assert_normal(batch.targets[0, told[0, :, 0] == sign, 0] - clean, 0.1)


@every_variant
@every_n
def test_min_lag_counts_from_the_last_informative_element(variant: Variant, n_informative: NInformative) -> None:
    assert TwoSequence(variant=variant, n_informative=n_informative).min_lag(100) == 100 - n_informative


@pytest.mark.parametrize(
    ("variant", "limit"),
    [("bengio1994", 0.5), ("hochreiter1997_3a", 0.2), ("hochreiter1997_3b", 0.2)],
)
def test_failed_is_an_error_of_the_logistic_unit(variant: Variant, limit: float) -> None:
    # The elements contradict the targets, as noise may have them do.
    batch = Batch(inputs=torch.zeros(5, 4, 1), targets=torch.tensor([1.0, 1.0, 0.0, 0.0])[None, :, None])
    unit = torch.tensor([1 - limit + 1e-3, 1 - limit - 1e-3, limit - 1e-3, limit + 1e-3])
    failed = TwoSequence(variant=variant).failed(batch, unit.logit()[None, None, :, None])
    assert failed.tolist() == [[False, True, False, True]]


def test_failed_goes_by_the_target_without_noise_in_3c() -> None:
    signs = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    # The targets are so noisy that every one of them is on the other side.
    batch = Batch(inputs=signs[:, None].expand(5, -1, 1), targets=0.5 - 0.3 * signs[None, :, None])
    unit = torch.tensor([0.701, 0.699, 0.901, 0.299, 0.301, 0.099])
    failed = TwoSequence(variant="hochreiter1997_3c").failed(batch, unit.logit()[None, None, :, None])
    assert failed.tolist() == [[False, True, True, False, True, True]]


@every_n
def test_oracle_is_the_posterior_in_3b(n_informative: NInformative) -> None:
    task = TwoSequence(variant="hochreiter1997_3b", n_informative=n_informative)
    batch = draw("hochreiter1997_3b", n_informative, 200, 12)
    told = batch.inputs[:n_informative].double()
    sd = torch.tensor(math.sqrt(0.2), dtype=torch.float64)
    log_densities = [Normal(mean, sd).log_prob(told).sum(0) for mean in (sd.new_tensor(1), sd.new_tensor(-1))]
    posterior = torch.stack(log_densities).softmax(0)[0]
    # Float32 rounding of a log odds up to about 50.
    torch.testing.assert_close(task.oracle(batch)[0].double().sigmoid(), posterior, rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize(("n_informative", "share"), [(1, 0.027), (3, 0.00011)])
def test_oracle_fails_as_often_as_it_says_in_3b(n_informative: NInformative, share: float) -> None:
    task = TwoSequence(variant="hochreiter1997_3b", n_informative=n_informative)
    error = task.oracle_error()
    assert error == pytest.approx(share, rel=0.02)
    batch = draw("hochreiter1997_3b", n_informative, 200_000, 4)
    found = float(task.failed(batch, task.oracle(batch).unsqueeze(0)).double().mean())
    # Six standard errors of a binomial share.
    assert abs(found - error) < 6 * math.sqrt(error / 200_000)


def test_even_the_sign_fails_more_than_one_per_cent_in_3b_with_one_element() -> None:
    task = TwoSequence(variant="hochreiter1997_3b", n_informative=1)
    batch = draw("hochreiter1997_3b", 1, N, 4)
    failed = task.failed(batch, 100 * batch.inputs[:1].sign().unsqueeze(0))
    # A standard normal lies beyond 1 / sqrt(0.2) with this probability.
    expected = math.erfc(1 / math.sqrt(2 * 0.2)) / 2
    assert expected == pytest.approx(0.0127, abs=1e-4)
    # Six standard errors of a binomial share.
    assert abs(float(failed.double().mean()) - expected) < 6 * math.sqrt(expected / N)


@every_n
def test_loss_of_the_oracle_is_the_variance_of_the_target_noise_in_3c(n_informative: NInformative) -> None:
    task = TwoSequence(variant="hochreiter1997_3c", n_informative=n_informative)
    batch = draw("hochreiter1997_3c", n_informative, N, 12)
    least = float(task.loss(batch, task.oracle(batch).unsqueeze(0)))
    # Six standard errors of a normal variable's mean square.
    assert abs(least - 0.1) < 6 * 0.1 * math.sqrt(2 / N)


@every_variant
def test_loss_is_the_mean_squared_error_of_the_logistic_unit(variant: Variant) -> None:
    batch = draw(variant, 3, 11, 20)
    outputs = torch.randn(3, 1, 11, 1, generator=Generator().manual_seed(0))
    expected = torch.stack([mse_loss(output.sigmoid(), batch.targets) for output in outputs])
    torch.testing.assert_close(TwoSequence(variant=variant).loss(batch, outputs), expected)
