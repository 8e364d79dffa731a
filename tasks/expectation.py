"""What losses are on average where outputs are independent and Gaussian: fast dropout's readout is trained by these.

Outputs have means ``mu`` and variances ``s2`` of the same shape. Without variance each is the loss itself.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from tasks.logistic import logistic

WEIGHTS = (
    *(0.003246343272134, 0.051517477033972, 0.195077912673858, 0.315569823632818),
    *(0.274149576158423, 0.131076880695470, 0.027912418727972, 0.001449567805354),
)
RATES = (
    *(1.365340806296348, 1.059523971016916, 0.830791313765644, 0.650732166639391),
    *(0.508135425366489, 0.396313345166341, 0.308904252267995, 0.238212616409306),
)
"""The logistic function as a mixture of normal distribution functions Phi: ``f(y) = sum_k w_k Phi(r_k y)`` to 1e-8.

Source: Monahan & Stefanski 1992, the mixture of eight.
"""


def logistic_moments(mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a logistic unit: ``m = f(mu / sqrt(1 + pi s2 / 8))``, ``v = q - q / sqrt(1 + 2 q s2)``.

    q is ``m (1 - m)``.

    Source: Wang & Manning 2013 (the mean). Differs: the variance, theirs does not vanish with s2. Both are those of the
    networks' logistic units.
    """
    mean = logistic(mu * (1 + math.pi / 8 * s2).rsqrt())
    slope = mean * (1 - mean)
    return mean, slope * (1 - (1 + 2 * slope * s2).rsqrt())


def expected_softplus(mu: Tensor, s2: Tensor) -> Tensor:
    """``E[ln(1 + e^y)]``, as the mean of rectifiers of y with more noise in it; off by 1e-9 of a standard deviation.

    ``ln(1 + e^mu) + sum_k w_k (G(mu, s2 + 1 / r_k^2) - G(mu, 1 / r_k^2))``, where ``G(mu, v) = E[max(0, y)]`` for
    variance v and w, r are those of the logistic function, which is the slope.

    Source: Monahan & Stefanski 1992, the logistic-normal integral, whose integral by mu this is. Differs: Wang &
    Manning 2013 take ``k ln(1 + e^(mu / k))`` with ``k = sqrt(1 + pi s2 / 8)``, in which a variance of 1 adds to the
    loss twice what it should at ``|mu|`` = 4, and 7 times that at 10.
    """
    return _log_of_sum(mu, s2, torch.zeros_like(mu), torch.zeros_like(s2))[0]


def expected_cross_entropy(mu: Tensor, s2: Tensor, classes: Tensor) -> Tensor:
    """``E[-ln softmax(y)_c]``: outputs are merged by twos, ``ln(e^a + e^b)`` being taken as Gaussian in its turn.

    Args:
        mu: means ``[..., n_out]``, of 2 classes or more.
        s2: variances, likewise.
        classes: c, int64 ``[...]``.

    Returns:
        ``[...]``, differentiable in both.

    For two classes it is as right as ``expected_softplus``. For 3 to 50 of them, means from N(0, 1) and one of them up
    to 8 further, what noise adds to the loss is off by up to 20 % for variances up to 2, 30 % up to 4, 60 % up to 8.
    The order of classes matters within that.

    Source: Wang & Manning 2013 for two classes. Differs: their formula, see ``expected_softplus``; for more classes
    they draw samples.
    """
    mean, variance = mu - mu.gather(-1, classes.unsqueeze(-1)), s2
    while (half := mean.shape[-1] // 2) > 0:
        first, second, odd = slice(half), slice(half, 2 * half), slice(2 * half, None)
        merged, spread = _log_of_sum(mean[..., first], variance[..., first], mean[..., second], variance[..., second])
        mean, variance = torch.cat([merged, mean[..., odd]], -1), torch.cat([spread, variance[..., odd]], -1)
    return mean.squeeze(-1)


def _log_of_sum(a: Tensor, spread_a: Tensor, b: Tensor, spread_b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``ln(e^y + e^z)``, y and z Gaussian with means a, b and these variances.

    The mean is exact; the variance is that of the first and second order in the noise, by slopes that are themselves
    averaged: ``p^2 s_a + (1 - p)^2 s_b + (q (s_a + s_b))^2 / 2``, p the mean of ``f(y - z)`` and q that of its slope.
    """
    weights, narrow = _mixture(a.dtype, a.device)
    gap = (a - b).unsqueeze(-1)
    wide = ((spread_a + spread_b).unsqueeze(-1) + narrow.square()).sqrt()
    distance = gap.abs()
    # Not as products with a vector: BLAS rounds a row by what other rows there are.
    excess = ((wide * _overshoot(distance / wide) - narrow * _overshoot(distance / narrow)) * weights).sum(-1)
    share = (_beyond(-gap / wide) * weights).sum(-1)
    slope = (_density(gap / wide) / wide * weights).sum(-1)
    spread = share.square() * spread_a + (1 - share).square() * spread_b
    return torch.logaddexp(a, b) + excess, spread + (slope * (spread_a + spread_b)).square() / 2


@cache
def _mixture(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights and inverse rates of the mixture; on a GPU once, because what is sent there cannot be recorded."""
    with torch.inference_mode(mode=False):
        return torch.tensor(WEIGHTS, dtype=dtype, device=device), 1 / torch.tensor(RATES, dtype=dtype, device=device)


def _overshoot(x: Tensor) -> Tensor:
    """``E[max(0, z - x)]`` of a standard normal z."""
    return _density(x) - x * _beyond(x)


def _beyond(x: Tensor) -> Tensor:
    """Probability of a standard normal variable to be above x."""
    return (x / math.sqrt(2)).erfc() / 2


def _density(x: Tensor) -> Tensor:
    """Density of a standard normal variable."""
    return (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
