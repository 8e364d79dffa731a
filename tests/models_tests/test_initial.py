"""Initialisers: each has the property it is chosen for."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from models.initial import INITIALISERS, Initialiser, gaussian, identity, orthogonal, sparse

every_initialiser = pytest.mark.parametrize("initialiser", INITIALISERS.values(), ids=INITIALISERS.keys())


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@every_initialiser
@pytest.mark.parametrize("n_hidden", [1, 2, 40])
def test_initialiser_gives_a_finite_square_matrix_in_double_precision(initialiser: Initialiser, n_hidden: int) -> None:
    matrix = initialiser(seeded(), n_hidden)
    assert (matrix.shape, matrix.dtype, matrix.device.type) == ((n_hidden, n_hidden), torch.float64, "cpu")
    assert matrix.isfinite().all()
    assert matrix.any()


@every_initialiser
def test_initialiser_depends_on_its_generator_alone(initialiser: Initialiser) -> None:
    torch.manual_seed(1)
    first = initialiser(seeded(), 20)
    torch.manual_seed(2)
    assert torch.equal(first, initialiser(seeded(), 20))


@pytest.mark.parametrize("initialiser", [gaussian, orthogonal, sparse])
def test_initialiser_draws_anew_each_time(initialiser: Initialiser) -> None:
    generator = seeded()
    assert not torch.equal(initialiser(generator, 20), initialiser(generator, 20))


def test_gaussian_has_mean_zero_and_variance_one_over_n() -> None:
    n = 200
    entries = gaussian(seeded(), n).flatten()
    # Six standard errors: of the mean, sqrt(1/n) / n; of the variance of a normal variable, (1/n) sqrt(2) / n.
    assert abs(entries.mean()) < 6 * n**-1.5
    assert abs(entries.var() - 1 / n) < 6 * 2**0.5 / n**2


def test_orthogonal_has_singular_values_one() -> None:
    singular = torch.linalg.svdvals(orthogonal(seeded(), 50))
    # The QR factors are orthogonal to a few units of roundoff.
    torch.testing.assert_close(singular, torch.ones_like(singular), rtol=0, atol=1e-13)


def test_orthogonal_is_uniform_on_the_group() -> None:
    """The trace of a uniform orthogonal matrix has mean 0 and variance 1; without the sign it does not."""
    generator, n_draws = seeded(), 2000
    matrices = torch.stack([orthogonal(generator, 4) for _ in range(n_draws)])
    traces = matrices.diagonal(dim1=1, dim2=2).sum(1)
    # Six standard errors; E[trace^4] = 3, so that trace^2 has standard deviation sqrt(2).
    assert abs(traces.mean()) < 6 / n_draws**0.5
    assert abs(traces.square().mean() - 1) < 6 * (2 / n_draws) ** 0.5
    # Reflections are as frequent as rotations.
    assert abs(torch.linalg.det(matrices).mean()) < 6 / n_draws**0.5


def test_identity_is_the_identity_and_draws_nothing() -> None:
    generator = seeded()
    before = generator.get_state()
    assert torch.equal(identity(generator, 7), torch.eye(7, dtype=torch.float64))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("n_hidden", [1, 2, 15, 16, 60])
def test_sparse_has_spectral_radius_one(n_hidden: int) -> None:
    radius = torch.linalg.eigvals(sparse(seeded(n_hidden), n_hidden)).abs().max()
    # Eigenvalues of a matrix that is not normal are found to roundoff times their condition, here below 1e3.
    assert float(radius) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("n_hidden", "fan_in"), [(10, 10), (15, 15), (60, 15)])
def test_sparse_has_fifteen_incoming_connections_a_unit(n_hidden: int, fan_in: int) -> None:
    matrix = sparse(seeded(), n_hidden)
    assert (matrix != 0).sum(0).tolist() == [fan_in] * n_hidden


def test_sparse_connects_to_every_unit_equally_often() -> None:
    generator, n, n_draws = seeded(), 30, 400
    counts = torch.stack([(sparse(generator, n) != 0).double() for _ in range(n_draws)]).mean(0)
    # Each entry is there with probability 1/2; six standard errors of 400 draws leave 900 entries ample room.
    assert (counts - 0.5).abs().max() < 6 * 0.5 / n_draws**0.5


def test_sparse_weights_are_normal_up_to_their_scale() -> None:
    matrix = sparse(seeded(), 400)
    weights = matrix[matrix != 0]
    kurtosis = weights.pow(4).mean() / weights.square().mean() ** 2
    # 3 for a normal variable, with standard error sqrt(24 / n) at n = 6000 weights.
    assert abs(kurtosis - 3) < 6 * (24 / len(weights)) ** 0.5
    assert abs(weights.mean()) < 6 * weights.std() / len(weights) ** 0.5
