"""Mean and variance of a nonlinearity's value when its net input is Gaussian: one unit of fast dropout."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.activation import ACTIVATIONS, Activation


class Partials(NamedTuple):
    """Derivatives of a unit's mean m and variance v by those of its net input, mu and s2; each of their shape."""

    mean_by_mean: Tensor
    mean_by_variance: Tensor
    variance_by_mean: Tensor
    variance_by_variance: Tensor


class MomentMap(ABC):
    """``(mu, s2) -> (m, v)``, mean and variance of f(a) for ``a ~ N(mu, s2)``; elementwise, with no state."""

    @abstractmethod
    def moments(self, mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the value, differentiable by autograd; without noise exactly ``(f(mu), 0)``.

        Args:
            mu: mean of the net input, any shape.
            s2: its variance, 0 or more, same shape.
        """

    @abstractmethod
    def partials(self, mu: Tensor, s2: Tensor, mean: Tensor) -> Partials:
        """The derivatives of ``moments`` at ``(mu, s2)`` in closed form, finite everywhere, as new tensors.

        Args:
            mu: as in ``moments``.
            s2: as in ``moments``.
            mean: the mean that ``moments`` gave, so that the nonlinearity is not evaluated again.
        """


@dataclass(frozen=True, kw_only=True)
class Squashing(MomentMap):
    """Moments of tanh and of the logistic function, by approximation.

    ``m = f(k mu)``, ``k = 1 / sqrt(1 + shrinkage s2)``, and ``v = q (1 - 1 / sqrt(1 + 2 q s2))`` with q = f'(k mu) as a
    function of m: 1 - m^2 or m (1 - m).

    The variance is ``f'(mu)^2 s2`` to first order, exact for little noise, and q, that of a unit which only takes its
    two extreme values, for much noise; it never leaves [0, q].

    ``shrinkage`` is pi / 8 for the logistic function and, as tanh(x) = 2 logistic(2 x) - 1, pi / 2 for tanh;
    ``bend`` is dq/dm from m.

    Source: Wang & Manning 2013, section 3 (the mean). Differs: the variance. Theirs replaces E[f^2] by a fitted
    logistic function and is off by up to 0.027 (logistic) and 0.11 (tanh) even without noise, so that networks would
    not tend to plain ones as p_drop tends to 0. This one is off by at most 0.0083 and 0.033, the mean by 0.0164 and
    0.033.
    """

    activation: Activation
    shrinkage: float
    bend: Callable[[Tensor], Tensor]

    def moments(self, mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        mean = self.activation.function(mu * _inverse_root(s2 * self.shrinkage))
        q = self.activation.slope_from_value(mean)
        return mean, torch.addcmul(q, q, _inverse_root(q * s2 * 2), value=-1)

    def partials(self, mu: Tensor, s2: Tensor, mean: Tensor) -> Partials:
        """``dm/ds2 = -shrinkage/2 mu k^2 dm/dmu``, ``dv/dq = 1 - (w + w^3)/2`` with w = 1 / sqrt(1 + 2 q s2)."""
        q = self.activation.slope_from_value(mean)
        k = _inverse_root(s2 * self.shrinkage)
        w = _inverse_root(q * s2 * 2)
        mean_by_mean = q * k
        mean_by_variance = mean_by_mean * mu * k.square_().mul_(-self.shrinkage / 2)
        q *= w
        variance_by_variance = q * q * w
        variance_by_q = torch.addcmul(w, w, w.square()).mul_(-0.5).add_(1)
        variance_by_mean_alone = variance_by_q.mul_(self.bend(mean))
        return Partials(
            mean_by_mean,
            mean_by_variance,
            variance_by_mean_alone * mean_by_mean,
            variance_by_variance.addcmul_(variance_by_mean_alone, mean_by_variance),
        )


class Rectified(MomentMap):
    """Moments of the rectifier, exact.

    With r = mu / s, Phi and phi the normal distribution and density: ``m = mu Phi(r) + s phi(r)`` and
    ``v = s2 Phi(r) - m m'``, where ``m' = s phi(r) - mu (1 - Phi(r))`` is the mean of the mirrored unit, max(0, -a).

    Source: Wang & Manning 2013, section 3.2, for the mean. Differs: nothing; the variance is the textbook's
    ``(mu^2 + s2) Phi + mu s phi - m^2`` rearranged, which loses all its digits where |r| is large.
    """

    def moments(self, mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """See the class. Roundoff below zero is cut off."""
        s, density, probability = _normal(mu, s2)
        upward = s * density
        mean = torch.addcmul(upward, mu, probability).clamp_min(0)
        mirrored = upward - mu * (1 - probability)
        return mean, (s2 * probability - mean * mirrored).clamp_min(0)

    def partials(self, mu: Tensor, s2: Tensor, mean: Tensor) -> Partials:
        """``Phi, phi / 2s; 2 m (1 - Phi), Phi - m phi / s``; without noise ``f', 0; 0, f'``, with f'(0) = 0."""
        s, density, probability = _normal(mu, s2)
        rate = density / s
        return Partials(probability, rate / 2, 2 * mean * (1 - probability), probability - mean * rate)


NOISELESS = 1e-30
"""A variance up to this is none for the rectifier: mu / s2 and its like would leave the range of float32."""

FAR = 1e4
"""So many standard deviations away a normal density is zero in every precision; finite, because 0 times it must be 0."""


def _normal(mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviation, phi(mu / s) and Phi(mu / s), such that autograd's derivatives stay finite without noise."""
    noisy = s2 > NOISELESS
    s = torch.where(noisy, s2, 1).sqrt()
    r = torch.where(noisy, mu / s, torch.where(mu > 0, FAR, -FAR))
    density = torch.exp(-r * r / 2) / math.sqrt(2 * math.pi)
    return s, density, torch.special.ndtr(r)


def _inverse_root(x: Tensor) -> Tensor:
    """``1 / sqrt(1 + x)``."""
    return (1 + x).rsqrt()


MOMENTS: dict[str, MomentMap] = {
    "tanh": Squashing(activation=ACTIVATIONS["tanh"], shrinkage=math.pi / 2, bend=lambda mean: -2 * mean),
    "logistic": Squashing(activation=ACTIVATIONS["logistic"], shrinkage=math.pi / 8, bend=lambda mean: 1 - 2 * mean),
    "rectifier": Rectified(),
}
"""Moments by the name of the activation."""
