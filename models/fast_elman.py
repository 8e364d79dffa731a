"""The simple recurrent network of Elman under fast dropout: moments instead of sampled masks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.activation import Activation
from models.cell import Cell, Flow, State, Tape, Weights
from models.drive import Drive
from models.elman import recurrent_gradient
from models.moment import MOMENTS
from models.truncation import reach

BLOCK = 10
"""Steps whose partial derivatives are computed together: one step is all overhead, all steps leave the cache."""


class FastElman(Cell):
    """Mean and variance of every unit of an Elman network whose recurrent inputs are kept with probability p.

    ``mu_t = drive_mean_t + p m_{t-1} W``, ``s2_t = drive_variance_t + (p v_{t-1} + p (1 - p) m_{t-1}^2) (W * W)``,
    ``(m_t, v_t)`` = moments of f(a) for a ~ N(mu_t, s2_t); ``m_0 = v_0 = 0``. W = ``recurrent`` ``[K, H, H]``; p is
    the ``mask``, ``[K, 1, 1]``, None for 1. Units are taken as independent, and so are the masks of different steps.
    The mean is what readout and statistics see.

    Source: Bayer et al. 2013; Wang & Manning 2013. Differs: Bayer's published code multiplies the recurrent mean by the
    probability of dropping and learns the initial moments; the moment maps say how they differ.
    """

    source = "Bayer et al. 2013, after Wang & Manning 2013"
    n_gates = 1
    candidate_gate = 0

    def __init__(self, activation: Activation) -> None:
        """A cell with this nonlinearity."""
        self.activation = activation
        self.moment_map = MOMENTS[activation.name]

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The recurrent matrix."""
        return {"recurrent": (n_hidden, n_hidden)}

    def start(self, like: Tensor) -> State:
        """Mean zero, variance zero."""
        return torch.zeros_like(like), torch.zeros_like(like)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """One step, see the class."""
        matrix, (mean, variance) = weights["recurrent"], state
        p_keep = _p_keep(matrix, mask)
        mu = torch.baddbmm(drive[0], p_keep * mean, matrix)
        spread = p_keep * variance + p_keep * (1 - p_keep) * mean.square()
        return self.moment_map.moments(mu, torch.baddbmm(drive[1], spread, matrix.square()))

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` holds mu_t, s2_t and ``v_t + (1 - p) m_t^2``, each ``[K, T, B, H]``."""
        matrix = weights["recurrent"]
        p_keep = _p_keep(matrix, mask)
        p_drop, kept, kept_square = 1 - p_keep, p_keep * matrix, p_keep * matrix.square()
        dense = drive.dense()
        tape = [torch.empty_like(dense[0], memory_format=torch.contiguous_format) for _ in range(4)]
        mean, spread = self.start(dense[0][:, 0])
        for drive_mean, drive_variance, *slots in zip(*(part.unbind(1) for part in (*dense, *tape)), strict=True):
            mu = torch.baddbmm(drive_mean, mean, kept)
            s2 = torch.baddbmm(drive_variance, spread, kept_square)
            mean, variance = self.moment_map.moments(mu, s2)
            spread = torch.addcmul(variance, mean * p_drop, mean)
            for slot, value in zip(slots, (mean, mu, s2, spread), strict=True):
                slot.copy_(value)
        return Tape(drive=drive, states=tape[0], gates=tape[0].unsqueeze(-2), saved=tuple(tape[1:]))

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """``dE/dm_t = p delta_{t+1} W^T + 2 (1 - p) m_t dE/dv_t`` and ``dE/dv_t = p epsilon_{t+1} (W * W)^T``.

        delta is dE/dmu, epsilon is dE/ds2; dE/dm_t and dE/dv_t have the readout's parts besides, the latter's added
        when the former is formed.
        """
        matrix, means, (mus, s2s, spreads) = weights["recurrent"], tape.states, tape.saved
        length, n_read = means.shape[1], cotangent.shape[1]
        by_mean, by_variance = by_moments(cotangent, means.shape[-1])
        reached = reach(window, length, n_read)
        p_keep = _p_keep(matrix, mask)
        twice_drop, kept, kept_square = 2 - 2 * p_keep, (p_keep * matrix).mT, (p_keep * matrix.square()).mT
        delta, epsilon = torch.empty_like(means), torch.empty_like(means)
        delta[:, : reached.first], epsilon[:, : reached.first] = 0, 0
        before, read, deltas, epsilons = (part.unbind(1) for part in (means, by_mean, delta, epsilon))
        read_variance = None if by_variance is None else by_variance.unbind(1)
        d_mean, d_variance = read[-1], torch.zeros_like(before[0]) if read_variance is None else read_variance[-1]
        partials = self._partials_from_last(*(part[:, reached.first :] for part in (mus, s2s, means)))
        steps = reversed(range(reached.first, length))
        for t, (m_by_mu, m_by_s2, v_by_mu, v_by_s2) in zip(steps, partials, strict=True):
            d_mu = torch.mul(d_mean, m_by_mu, out=deltas[t]).addcmul_(d_variance, v_by_mu)
            d_s2 = torch.mul(d_mean, m_by_s2, out=epsilons[t]).addcmul_(d_variance, v_by_s2)
            if t > reached.first:
                d_variance = reached.sever(t - 1, torch.bmm(d_s2, kept_square))
                d_mean = reached.sever(t - 1, torch.bmm(d_mu, kept))
                d_mean.addcmul_(d_variance, before[t - 1] * twice_drop)
                if t - 1 >= length - n_read:
                    d_mean += read[t - 1 - length + n_read]
                    if read_variance is not None:
                        d_variance += read_variance[t - 1 - length + n_read]
        through_mean = recurrent_gradient(means, None, delta)
        through_variance = recurrent_gradient(spreads, None, epsilon)
        gradient = p_keep * torch.addcmul(through_mean, through_variance, matrix, value=2)
        flow = tape.drive.collect((delta, epsilon))
        return Flow(net=delta, drive=flow, weights={"recurrent": gradient}, carousel=None)

    def _partials_from_last(self, mus: Tensor, s2s: Tensor, means: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """What ``MomentMap.partials`` gives, step by step from the last, each ``[K, B, H]``."""
        blocks = zip(*(torch.split(part, BLOCK, dim=1) for part in (mus, s2s, means)), strict=True)
        for block in reversed(list(blocks)):
            steps = zip(*(part.unbind(1) for part in self.moment_map.partials(*block)), strict=True)
            yield from reversed(list(steps))

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """``dmu_t = p dm_{t-1} W``, ``ds2_t = p (dv_{t-1} + 2 (1 - p) m_{t-1} dm_{t-1}) (W * W)``, and partials."""
        matrix, (u_mean, u_variance), n = weights["recurrent"], before, before[0].shape[1]
        p_keep = _p_keep(matrix, mask)
        mean, mu, s2 = (part[:, t, :n] for part in (tape.states, *tape.saved[:2]))
        spread = u_variance
        if t > 0:
            spread = torch.addcmul(spread, (2 - 2 * p_keep) * tape.states[:, t - 1, :n], u_mean)
        d_mu, d_s2 = torch.bmm(u_mean, p_keep * matrix), torch.bmm(spread, p_keep * matrix.square())
        m_by_mu, m_by_s2, v_by_mu, v_by_s2 = self.moment_map.partials(mu, s2, mean)
        return m_by_mu * d_mu + m_by_s2 * d_s2, v_by_mu * d_mu + v_by_s2 * d_s2

    def variance(self, tape: Tape, n_read: int) -> Tensor:
        """v_t, from mu_t and s2_t."""
        mus, s2s, _ = tape.saved
        return self.moment_map.moments(mus[:, -n_read:], s2s[:, -n_read:])[1]

    def relative_slope(self, gates: Tensor) -> Tensor:
        """``f'(a) / f'_max`` at the mean of the unit's value, as in the plain cell; the variance is left out."""
        return self.activation.slope_from_value(gates) / self.activation.slope_max


def by_moments(cotangent: Tensor, n_hidden: int) -> tuple[Tensor, Tensor | None]:
    """The parts of a cotangent: by means, ``[K, R, B, H]``, and by variances, None where it has no such part."""
    by_mean, *by_variance = torch.split(cotangent, n_hidden, dim=-1)
    return by_mean, by_variance[0] if by_variance else None


def _p_keep(matrix: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(matrix[:, :1, :1]) if mask is None else mask
