"""Mean and variance of a nonlinearity's value when its net input is Gaussian: one unit of fast dropout."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.activation import ACTIVATIONS, Activation, sigmoid_backward, tanh_backward


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

    ``m = f(k mu)``, ``k = 1 / sqrt(1 + shrinkage s2)``; ``v = q (1 - w)``, ``w = 1 / sqrt(1 + 2 q s2)``, with the slope
    q = f'(k mu) as a function of m: 1 - m^2 or m (1 - m). To first order v is ``f'(mu)^2 s2``, exact for little noise;
    for much noise it is q, which is the variance of a unit of mean m that takes its two extreme values only; it never
    leaves [0, q].

    ``shrinkage`` is pi / 8 for the logistic function and, as tanh(a) = 2 logistic(2 a) - 1, pi / 2 for tanh;
    ``times_slope`` is ``(x, m) -> x q``; ``middle`` is the m at which q is largest, dq/dm = 2 (middle - m).

    Source: Wang & Manning 2013 (the mean). Differs: the variance. Theirs, ``E[f(a (x - b))] - m^2`` for the logistic
    function with a = 4 - 2 sqrt(2), b = -log(sqrt(2) - 1), is off by up to 0.027 (tanh: 0.11) and worst without noise,
    where it should be 0: networks would not tend to plain ones as p_drop tends to 0. This one is off by 0.0083 (tanh:
    0.033) for standard deviations up to 10 (tanh: 5) and by 0.016 (0.064) beyond, the mean by 0.018 (0.036).
    """

    activation: Activation
    shrinkage: float
    times_slope: Callable[[Tensor, Tensor], Tensor]
    middle: float

    def moments(self, mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        one = s2.new_ones(())
        mean = self.activation.function(mu * torch.add(one, s2, alpha=self.shrinkage).rsqrt())
        w = torch.add(one, self.times_slope(s2, mean), alpha=2).rsqrt()
        return mean, self.times_slope(one - w, mean)

    def partials(self, mu: Tensor, s2: Tensor, mean: Tensor) -> Partials:
        """``dm/dmu = q k``, ``dm/ds2 = -shrinkage/2 mu q k^3``; ``dv = z dm + q^2 w^3 ds2``.

        z is dv/dq dq/dm = ``2 (middle - m) (1 - (w + w^3) / 2)``.
        """
        one = s2.new_ones(())
        spread = torch.add(one, s2, alpha=self.shrinkage)
        mean_by_mean = self.times_slope(spread.rsqrt(), mean)
        mean_by_variance = torch.mul(mean_by_mean, mu).div_(spread.mul_(-2 / self.shrinkage))
        w = torch.add(one, self.times_slope(s2, mean), alpha=2).rsqrt_()
        qw = self.times_slope(w, mean)
        z = torch.addcmul(w, w, w.square()).sub_(2).mul_(mean - self.middle)
        variance_by_variance = w.mul_(qw).mul_(qw).addcmul_(z, mean_by_variance)
        return Partials(mean_by_mean, mean_by_variance, z.mul_(mean_by_mean), variance_by_variance)


class Rectified(MomentMap):
    """Moments of the rectifier, exact.

    With r = mu / s, Phi and phi the normal distribution and density: ``m = mu Phi(r) + s phi(r)`` and
    ``v = s2 Phi(r) - m m'``, where ``m' = s phi(r) - mu (1 - Phi(r))`` is the mean of the mirrored unit, max(0, -a).

    Source: Wang & Manning 2013 (the mean). Differs: nothing. The variance is the usual ``(mu^2 + s2) Phi + mu s phi -
    m^2`` rearranged, because that loses all its digits where r is large.
    """

    def moments(self, mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """See the class. Roundoff below zero is cut off."""
        s, density, probability = _normal(mu, s2)
        upward = s * density
        mean = torch.addcmul(upward, mu, probability).clamp_min(0)
        mirrored = upward - mu * (1 - probability)
        return mean, (s2 * probability - mean * mirrored).clamp_min(0)

    def partials(self, mu: Tensor, s2: Tensor, mean: Tensor) -> Partials:
        """``dm = Phi dmu + phi / 2s ds2``, ``dv = 2 m (1 - Phi) dmu + (Phi - m phi / s) ds2``.

        Without noise ``dm = f' dmu`` and ``dv = f' ds2``, with f'(0) = 0.
        """
        s, density, probability = _normal(mu, s2)
        rate = density / s
        return Partials(probability, rate / 2, 2 * mean * (1 - probability), probability - mean * rate)


NOISELESS = 1e-30
"""A variance up to this is none for the rectifier: autograd's derivatives would leave the range of float32."""

FAR = 1e4
"""So many standard deviations away a normal density is 0 in every precision; finite, because 0 times it must be 0."""


def _normal(mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviation, phi(mu / s) and Phi(mu / s), such that autograd's derivatives stay finite without noise."""
    quiet = s2 <= NOISELESS
    s = torch.where(quiet, 1, s2).sqrt()
    r = torch.where(quiet, torch.where(mu > 0, FAR, -FAR), (mu / s).clamp(-FAR, FAR))
    density = torch.exp(-r * r / 2) / math.sqrt(2 * math.pi)
    return s, density, torch.special.ndtr(r)


MOMENTS: dict[str, MomentMap] = {
    "tanh": Squashing(activation=ACTIVATIONS["tanh"], shrinkage=math.pi / 2, times_slope=tanh_backward, middle=0.0),
    "logistic": Squashing(
        activation=ACTIVATIONS["logistic"], shrinkage=math.pi / 8, times_slope=sigmoid_backward, middle=0.5
    ),
    "rectifier": Rectified(),
}
"""Moments by the name of the activation."""
