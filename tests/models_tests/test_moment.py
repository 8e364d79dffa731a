"""Moments of a unit's value: against Monte Carlo, quadrature, the formulas they replace, and autograd."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.autograd import grad, gradcheck
from torch.func import jvp
from torch.nn.functional import one_hot

from models import CELLS
from models.activation import ACTIVATIONS
from models.dropout import Dropout, Keep
from models.moment import MOMENTS
from models.network import Network

exactly = partial(torch.testing.assert_close, rtol=0, atol=0)

every_map = pytest.mark.parametrize("name", MOMENTS)
every_squashing = pytest.mark.parametrize("name", ["tanh", "logistic"])

ERRORS = {"tanh": (0.0330, 0.0331), "logistic": (0.0164, 0.00826)}
"""Largest error of mean and variance on ``DENSE``, as measured there.

They belong to the formulas, which stand a logistic function in for a normal distribution, not to the arithmetic.
"""

DENSE = {"tanh": (6.0, 5.0), "logistic": (12.0, 10.0)}
"""Largest mean and largest standard deviation of a dense grid; half of it for tanh(a) = 2 logistic(2 a) - 1."""


def grid(mus: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
    mu, s = torch.meshgrid(mus.double(), deviations.double(), indexing="ij")
    return mu.flatten(), s.flatten()


def dense(name: str) -> tuple[Tensor, Tensor]:
    mu, s = DENSE[name]
    return grid(torch.linspace(-mu, mu, 97), torch.logspace(-2, math.log10(s), 31))


def quadrature(name: str, mu: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance by the trapezoidal rule, which is exact to roundoff for smooth functions that fade out."""
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    density = torch.exp(-z * z / 2)
    density /= density.sum()
    values = ACTIVATIONS[name].function(mu[:, None] + s[:, None] * z)
    mean = values @ density
    return mean, (values - mean[:, None]).square() @ density


def wang_manning_variance(mu: Tensor, s2: Tensor) -> Tensor:
    """Of the logistic function, as published: E[f^2] by a fitted logistic function."""
    a, b = 4 - 2 * math.sqrt(2), -math.log(math.sqrt(2) - 1)
    square = torch.sigmoid(a * (mu - b) / (1 + math.pi * a * a * s2 / 8).sqrt())
    return square - torch.sigmoid(mu / (1 + math.pi * s2 / 8).sqrt()).square()


@every_map
def test_moments_agree_with_monte_carlo(name: str) -> None:
    n_draws = 1_000_000
    z = torch.randn(n_draws, generator=Generator().manual_seed(0), dtype=torch.float64)
    mean_error, variance_error = ERRORS.get(name, (0.0, 0.0))
    for r, s in zip(*grid(torch.tensor([-2.5, -1, 0, 0.5, 2]), torch.tensor([0.1, 0.5, 1.5, 4])), strict=True):
        mu = r * s
        mean, variance = MOMENTS[name].moments(mu, s * s)
        deviation = (values := ACTIVATIONS[name].function(mu + s * z)) - values.mean()
        square = deviation.square()
        # Six standard errors; the rectifier's moments are exact, the others' have the error that is stated above.
        assert abs(mean - values.mean()) <= mean_error + 6 * deviation.std() / n_draws**0.5
        assert abs(variance - square.mean()) <= variance_error + 6 * square.std() / n_draws**0.5


@every_squashing
def test_moments_of_squashing_units_are_as_wrong_as_stated(name: str) -> None:
    mu, s = dense(name)
    for actual, expected, error in zip(
        MOMENTS[name].moments(mu, s * s), quadrature(name, mu, s), ERRORS[name], strict=True
    ):
        assert float((actual - expected).abs().max()) == pytest.approx(error, rel=0.01)


@every_squashing
def test_moments_of_squashing_units_are_near_those_of_a_switch_when_there_is_much_noise(name: str) -> None:
    """A unit that takes its two extreme values: the error is that of a logistic in place of a normal distribution."""
    r = torch.linspace(-4, 4, 401, dtype=torch.float64)
    on = torch.special.ndtr(r)
    mean, variance = MOMENTS[name].moments(1e6 * r, torch.full_like(r, 1e12))
    height = 2 if name == "tanh" else 1
    assert float((mean - height * on + height - 1).abs().max()) == pytest.approx(0.0177 * height, rel=0.01)
    assert float((variance - height**2 * on * (1 - on)).abs().max()) == pytest.approx(0.0160 * height**2, rel=0.01)


def test_variance_of_the_logistic_function_is_closer_than_wang_and_mannings() -> None:
    mu, s = dense("logistic")
    _, expected = quadrature("logistic", mu, s)
    _, actual = MOMENTS["logistic"].moments(mu, s * s)
    theirs = wang_manning_variance(mu, s * s)
    assert (theirs - expected).abs().max() > 3 * (actual - expected).abs().max()
    # sigma(-a b) - 1/4 at mu = 0: why theirs is not used, see the class.
    nothing = torch.zeros(1, dtype=torch.float64)
    assert float(wang_manning_variance(nothing, nothing)) == pytest.approx(0.0126, abs=1e-4)


@every_map
@pytest.mark.parametrize("mu", [-2.5, -0.3, 0.1, 1.7])
def test_moments_are_those_of_a_linear_unit_when_there_is_little_noise(name: str, mu: float) -> None:
    mean = torch.tensor(mu, dtype=torch.float64, requires_grad=True)
    s2 = torch.tensor(1e-6, dtype=torch.float64)
    value = ACTIVATIONS[name].function(mean)
    (slope,) = grad(value, mean)
    actual_mean, actual_variance = MOMENTS[name].moments(mean.detach(), s2)
    # The next order is s2 times a number of order one.
    assert float(actual_mean) == pytest.approx(float(value.detach()), abs=1e-5)
    assert float(actual_variance / s2) == pytest.approx(float(slope**2), abs=1e-5)


@every_map
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_are_the_plain_value_and_zero_when_there_is_no_noise(name: str, dtype: torch.dtype) -> None:
    mu = torch.tensor([-1e6, -3, -1e-3, -1e-20, -0.0, 0.0, 1e-20, 0.2, 7, 1e6], dtype=dtype)
    mean, variance = MOMENTS[name].moments(mu, torch.zeros_like(mu))
    exactly(mean, ACTIVATIONS[name].function(mu))
    exactly(variance, torch.zeros_like(mu))


@every_map
def test_partials_are_those_of_the_plain_value_when_there_is_no_noise(name: str) -> None:
    mu = torch.tensor([-1e6, -3, -1e-20, 0.0, 1e-20, 0.2, 7, 1e6], dtype=torch.float64, requires_grad=True)
    value = ACTIVATIONS[name].function(mu)
    (slope,) = grad(value.sum(), mu)
    partials = MOMENTS[name].partials(mu.detach(), torch.zeros_like(mu), value.detach())
    exactly(partials.mean_by_mean, slope)
    exactly(partials.variance_by_mean, torch.zeros_like(mu))
    torch.testing.assert_close(partials.variance_by_variance, slope.square(), rtol=1e-15, atol=0)
    assert partials.mean_by_variance.isfinite().all()


def folded(r: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of max(0, a) for a ~ N(r, 1) by Gauss and Legendre's rule where a > 0; it subtracts no large numbers."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(200))
    lower = (r - 12).clamp_min(0)
    half = (r + 12 - lower)[:, None] / 2
    a = lower[:, None] + half * (nodes + 1)
    density = torch.exp(-((a - r[:, None]) ** 2) / 2) / math.sqrt(2 * math.pi) * half * weights
    mean = (density * a).sum(1)
    off = torch.special.ndtr(-r)
    return mean, off * mean**2 + (density * (a - mean[:, None]) ** 2).sum(1)


@pytest.mark.parametrize("s", [1e-6, 1.0, 1e6])
def test_moments_of_the_rectifier_are_exact_far_from_its_kink(s: float) -> None:
    r = torch.linspace(-8, 8, 65, dtype=torch.float64)
    mean, variance = folded(r)
    actual = MOMENTS["rectifier"].moments(r * s, torch.full_like(r, s * s))
    # Roundoff relative to the moments of the net input, times r^2 in the tail; there the values themselves are 1e-17.
    torch.testing.assert_close(actual, (s * mean, s * s * variance), rtol=1e-11, atol=1e-15 * s * max(s, 1))


def test_variance_of_the_rectifier_keeps_its_digits_in_single_precision() -> None:
    """The usual ``E[y^2] - E[y]^2`` is off by thousands of times the variance here."""
    mu, s = torch.tensor([1e3, 30.0, -1e3]), 1e-2
    mean, variance = MOMENTS["rectifier"].moments(mu, torch.full_like(mu, s * s))
    torch.testing.assert_close(mean, mu.clamp_min(0))
    torch.testing.assert_close(variance, s * s * (mu > 0).float())


@every_map
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_and_partials_are_finite_and_no_variance_is_negative(name: str, dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(0)

    def spread(low: float, high: float) -> Tensor:
        exponent = low + (high - low) * torch.rand(100_000, generator=generator, dtype=torch.float64)
        return (10**exponent).to(dtype)

    mu = spread(-12, 6) * torch.randn(100_000, generator=generator).sign().to(dtype)
    # Below 1e-38 single precision has denormal numbers.
    s2 = spread(-42, 8)
    s2[::10] = 0
    mu[::25] = 0
    mean, variance = MOMENTS[name].moments(mu, s2)
    parts = (mean, variance, *MOMENTS[name].partials(mu, s2, mean))
    assert all(part.isfinite().all() and part.dtype == dtype for part in parts)
    assert variance.min() >= 0
    if name != "tanh":
        assert mean.min() >= 0


def leaves() -> tuple[Tensor, Tensor]:
    mu = torch.tensor([-50, -6, -1.5, -1e-3, -1e-9, 0, 1e-9, 0.3, 2, 8, 50], dtype=torch.float64)
    s2 = torch.tensor([0, 1e-14, 1e-6, 0.1, 1, 30, 1e4], dtype=torch.float64)
    mu, s2 = grid(mu, s2)
    return mu.requires_grad_(), s2.requires_grad_()


@every_map
def test_partials_are_those_of_autograd(name: str) -> None:
    mu, s2 = leaves()
    mean, variance = MOMENTS[name].moments(mu, s2)
    expected = (*grad(mean.sum(), (mu, s2), retain_graph=True), *grad(variance.sum(), (mu, s2)))
    with torch.no_grad():
        actual = MOMENTS[name].partials(mu, s2, mean)
    # Roundoff, up to 1e-16 times mu / s = 1e7 where the rectifier's two terms cancel.
    torch.testing.assert_close(tuple(actual), expected, rtol=1e-10, atol=1e-10)


@every_map
def test_moments_have_the_derivatives_of_finite_differences(name: str) -> None:
    mu, s2 = grid(torch.tensor([-4, -1.5, -0.2, 0.3, 2, 5]), torch.tensor([0.05, 0.7, 3, 20]))
    assert gradcheck(MOMENTS[name].moments, (mu.requires_grad_(), s2.requires_grad_()))


@every_map
def test_moments_can_be_differentiated_forward(name: str) -> None:
    """As the Lyapunov exponent does, also without noise."""
    mu, s2 = (leaf.detach() for leaf in leaves())
    with torch.no_grad():
        partials = MOMENTS[name].partials(mu, s2, MOMENTS[name].moments(mu, s2)[0])
    along = torch.full_like(mu, 2), torch.full_like(s2, -3)
    mean, variance = jvp(MOMENTS[name].moments, (mu, s2), along)[1]
    expected = (
        2 * partials.mean_by_mean - 3 * partials.mean_by_variance,
        2 * partials.variance_by_mean - 3 * partials.variance_by_variance,
    )
    torch.testing.assert_close((mean, variance), expected, rtol=1e-10, atol=1e-10)


@every_map
@pytest.mark.parametrize("s2", [0, 1e-44, 1e-38, 1e-31, 1e-29])
def test_derivatives_of_moments_are_finite_in_single_precision_when_there_is_hardly_any_noise(
    name: str, s2: float
) -> None:
    mu = torch.tensor([-1e6, -1.0, -1e-22, 0.0, 1e-22, 1e-15, 1.0, 1e6])
    variance = torch.full_like(mu, s2)
    tangents = jvp(MOMENTS[name].moments, (mu, variance), (torch.ones_like(mu), torch.ones_like(mu)))[1]
    assert all(tangent.isfinite().all() for tangent in tangents)


@pytest.mark.parametrize("p_drop", [0.1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("coded", [True, False], ids=["codes", "values"])
def test_net_input_of_a_dropped_out_layer_has_the_moments_that_the_network_states(coded: bool, p_drop: float) -> None:
    n_draws, n_in, n_hidden = 200_000, 12, 4
    generator = Generator().manual_seed(0)
    weights = {
        "input": torch.randn(1, n_in, n_hidden, generator=generator, dtype=torch.float64),
        "bias": torch.randn(1, n_hidden, generator=generator, dtype=torch.float64),
    }
    values = torch.randn(n_in, generator=generator, dtype=torch.float64)
    shape = Network(cell=CELLS["elman_tanh"], dropout=Dropout.FAST, n_in=n_in, n_hidden=n_hidden, n_out=1)
    p_keep = torch.tensor([1 - p_drop], dtype=torch.float64)
    inputs = torch.tensor([[3]]) if coded else values[None, None]
    drive, gain = shape.drive(weights, inputs, Keep(inputs=p_keep, recurrent=p_keep))
    # A symbol is one input unit that is on, so one draw per sequence decides; values have one draw each.
    on = one_hot(inputs[0, 0], n_in).double() if coded else values
    mask = torch.rand(n_draws, 1 if coded else n_in, generator=generator, dtype=torch.float64) < 1 - p_drop
    sampled = (mask * on) @ weights["input"][0] + weights["bias"][0]
    mean, variance = (part[0, 0, 0] for part in drive.dense())
    assert_sample_has_moments(sampled, mean, variance)
    assert gain is not None
    exactly(gain, p_keep[:, None, None])


def assert_sample_has_moments(sample: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Within six standard errors of each."""
    n_draws = len(sample)
    square = (sample - sample.mean(0)).square()
    assert ((sample.mean(0) - mean).abs() < 6 * sample.std(0) / n_draws**0.5).all()
    assert ((square.mean(0) - variance).abs() < 6 * square.std(0) / n_draws**0.5).all()
