"""Initialisers: each has the property it is chosen for."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from models.initial import (
    INITIALISERS,
    Initialiser,
    chrono,
    connections,
    gaussian,
    identity,
    orthogonal,
    smart_tanh,
    sparse,
    uniform,
)

every_initialiser = pytest.mark.parametrize(
    "initialiser", [one.recurrent for one in INITIALISERS.values()], ids=INITIALISERS.keys()
)


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


@pytest.mark.parametrize("initialiser", [gaussian, uniform, orthogonal, sparse, smart_tanh])
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


def test_uniform_fills_an_interval_with_variance_one_over_n() -> None:
    n = 200
    entries = uniform(seeded(), n).flatten()
    width = (3 / n) ** 0.5
    assert entries.abs().max() <= width
    # 40,000 entries come closer to both ends than a thousandth, but for a probability of exp(-20).
    assert entries.min() < -0.999 * width
    assert entries.max() > 0.999 * width
    # Six standard errors: of the mean; of the variance of a uniform variable, (1/n) sqrt(4/5) / n.
    assert abs(entries.mean()) < 6 * n**-1.5
    assert abs(entries.square().mean() - 1 / n) < 6 * 0.8**0.5 / n**2


def test_uniform_has_about_the_spectral_radius_of_gaussian() -> None:
    radius = float(torch.linalg.eigvals(uniform(seeded(), 400)).abs().max())
    # The circular law holds for any independent entries; the edge of its disc is sharp to about n^(-1/2).
    assert radius == pytest.approx(1, abs=2 / 400**0.5)


def test_smart_tanh_has_fifteen_outgoing_connections_a_unit_and_radius_095() -> None:
    matrix = smart_tanh(seeded(), 60)
    outgoing, incoming = (matrix != 0).sum(1), (matrix != 0).sum(0)
    assert outgoing.tolist() == [15] * 60
    assert len(set(incoming.tolist())) > 1
    assert float(torch.linalg.eigvals(matrix).abs().max()) == pytest.approx(0.95, abs=1e-12)


@pytest.mark.parametrize(("name", "deviation"), [("pascanu_sigmoid", 0.01), ("basic_tanh", 0.1)])
def test_initialisation_of_pascanu_is_normal_with_its_deviation_at_any_size(name: str, deviation: float) -> None:
    for n in (50, 200):
        entries = INITIALISERS[name].recurrent(seeded(n), n).flatten()
        # Six standard errors of a mean and of a standard deviation; kurtosis 3 with standard error sqrt(24) / n.
        assert abs(entries.mean()) < 6 * deviation / n
        assert float(entries.std()) == pytest.approx(deviation, abs=6 * deviation / 2**0.5 / n)
        kurtosis = entries.pow(4).mean() / entries.square().mean() ** 2
        assert abs(kurtosis - 3) < 6 * 24**0.5 / n


@pytest.mark.parametrize("longest", [2.0, 2.5, 100.0, 1e4])
def test_chrono_spreads_forgetting_times_evenly_up_to_the_longest(longest: float) -> None:
    n = 4000
    biases = chrono(seeded(), n, longest)
    times = (1 / (1 - biases.sigmoid())).sort().values
    # Rounding of 1 - logistic(b), which is 1 / longest or more.
    torch.testing.assert_close(times.clamp(2, longest), times, rtol=1e-11, atol=0)
    if longest > 2:
        steps = torch.arange(n, dtype=torch.float64) / n
        distance = ((times - 2) / (longest - 2) - steps).abs().max()
        # Kolmogorov's distance exceeds 2 / sqrt(n) with a probability of 2 exp(-8).
        assert distance < 2 / n**0.5 + 1 / n


@pytest.mark.parametrize(("connectivity", "expected"), [(0.1, 2), (0.25, 5), (0.001, 1), (1.0, 20)])
def test_connections_are_as_many_for_every_unit_and_differ_between_draws(connectivity: float, expected: int) -> None:
    first, second = (connections(Generator().manual_seed(seed), 20, connectivity) for seed in (0, 1))
    assert first.sum(0).tolist() == [expected] * 20
    assert torch.equal(first, second) == (connectivity == 1)
