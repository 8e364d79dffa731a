"""What losses are on average where outputs are independent and Gaussian: fast dropout's readout is trained by these.

Outputs have means ``mu`` and variances ``s2`` of the same shape. Without variance each is the loss itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot


def logistic_moments(mu: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a logistic unit: ``m = f(mu / sqrt(1 + pi s2 / 8))``, ``v = q - q / sqrt(1 + 2 q s2)``.

    q is ``m (1 - m)``.

    Source: Wang & Manning 2013 (the mean). Differs: the variance, theirs does not vanish with s2. Both are those of the
    networks' logistic units.
    """
    mean = (mu * (1 + math.pi / 8 * s2).rsqrt()).sigmoid()
    slope = mean * (1 - mean)
    return mean, slope * (1 - (1 + 2 * slope * s2).rsqrt())


def expected_softplus(mu: Tensor, s2: Tensor) -> Tensor:
    """``E[ln(1 + e^y)]``, about ``k ln(1 + e^(mu / k))`` with ``k = sqrt(1 + pi s2 / 8)``.

    Source: Wang & Manning 2013, the expected log likelihood of a logistic unit. Differs: nothing.
    """
    k = (1 + math.pi / 8 * s2).sqrt()
    # Torch's softplus breaks off at 20; this does not.
    return -k * logsigmoid(-mu / k)


def expected_cross_entropy(mu: Tensor, s2: Tensor, classes: Tensor) -> Tensor:
    """``E[-ln softmax(y)_c]``, about that of the log odds against c, taken as Gaussian: ``E[ln(1 + e^d)]``.

    ``d = ln sum_j e^(y_j) - y_c`` over all j but c, which has to second and first order in the noise the mean
    ``ln sum_j e^(mu_j) + sum_j r_j (1 - r_j) s2_j / 2 - mu_c`` and the variance ``s2_c + sum_j r_j^2 s2_j``, r the
    softmax over all classes but c.

    Args:
        mu: means ``[..., n_out]``, of 2 classes or more.
        s2: variances, likewise.
        classes: c, int64 ``[...]``.

    Returns:
        ``[...]``, differentiable in both.

    For variances of 0.1 to 4 it is off by up to a quarter of what the noise adds to the loss, for two classes by half.

    Source: Wang & Manning 2013 for two classes, where d is Gaussian. Differs: for more of them they draw samples.
    """
    right = one_hot(classes, mu.shape[-1]).bool()
    others = mu.masked_fill(right, -math.inf)
    share = others.softmax(-1)
    mean = others.logsumexp(-1) + (share * (1 - share) * s2).sum(-1) / 2
    mean = mean - mu.gather(-1, classes.unsqueeze(-1)).squeeze(-1)
    return expected_softplus(mean, (torch.where(right, 1, share).square() * s2).sum(-1))
