"""The linear readout of a stack, of states or of their moments, and its way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.cell import Weights
from models.linear import linear, linear_back


@dataclass(frozen=True, kw_only=True)
class Readout:
    """Outputs of the states h that are read, ``[K, R, B, H]``: ``y = (g h) W + b``.

    W = ``readout`` ``[K, H, n_out]``, b = ``readout_bias`` ``[K, n_out]``; ``gain`` is g, a mask of dropout or fast
    dropout's p_keep ``[K, 1, 1, 1]``, None for 1. With a ``variance`` v of the states, ``[K, R, B, H]``, h is their
    mean and y that of the outputs; the outputs' variance ``(p v + p (1 - p) h^2) (W * W)``, p = g, stands behind it.

    Source: Wang & Manning 2013, the last layer of a network; Bayer et al. 2013. Differs: nothing.
    """

    weights: Weights
    states: Tensor
    gain: Tensor | None
    variance: Tensor | None = None

    def output(self) -> Tensor:
        """Outputs ``[K, R, B, n_out]``, or means and variances ``[K, R, B, 2 n_out]``."""
        matrix = self.weights["readout"]
        mean = linear(self._kept(), matrix, self.weights["readout_bias"])
        if self.variance is None:
            return mean
        return torch.cat((mean, linear(self._spread(self.variance), matrix.square())), dim=-1)

    def back(self, d_output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients by the states that are read, and by the weights.

        With a variance, the gradient by it stands behind that by the means: ``[K, R, B, 2 H]``.
        """
        matrix = self.weights["readout"]
        d_mean, *d_variance = torch.split(d_output, matrix.shape[-1], dim=-1)
        cotangent = _times(linear(d_mean, matrix.mT), self.gain)
        by_matrix, by_bias = linear_back(self._kept(), d_mean)
        if self.variance is not None:
            by_square, _ = linear_back(self._spread(self.variance), d_variance[0])
            by_matrix.addcmul_(by_square, matrix, value=2)
            by_variance = _times(linear(d_variance[0], matrix.square().mT), self.gain)
            p_keep = 1 if self.gain is None else self.gain
            cotangent = torch.cat((cotangent + 2 * (1 - p_keep) * self.states * by_variance, by_variance), dim=-1)
        return cotangent, {"readout": by_matrix, "readout_bias": by_bias}

    def _kept(self) -> Tensor:
        return _times(self.states, self.gain)

    def _spread(self, variance: Tensor) -> Tensor:
        """``Var[z h] = p v + p (1 - p) m^2`` for a Bernoulli z independent of h."""
        if self.gain is None:
            return variance
        return self.gain * torch.addcmul(variance, (1 - self.gain) * self.states, self.states)


def _times(states: Tensor, gain: Tensor | None) -> Tensor:
    return states if gain is None else states * gain
