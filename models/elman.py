"""The simple recurrent network of Elman."""

from __future__ import annotations

import torch
from torch import Tensor

from models.activation import Activation
from models.cell import Cell, Flow, State, Tape, Weights
from models.drive import Drive
from models.truncation import reach


class Elman(Cell):
    """``a_t = drive_t + h_{t-1} W``, ``h_t = f(a_t)``, with W = ``recurrent`` ``[K, H, H]``.

    Source: Elman 1990. Differs: nothing.
    """

    source = "Elman 1990"
    n_gates = 1
    candidate_gate = 0

    def __init__(self, activation: Activation) -> None:
        """A cell with this nonlinearity."""
        self.activation, self.slope_max = activation, activation.slope_max

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The recurrent matrix."""
        return {"recurrent": (n_hidden, n_hidden)}

    def start(self, like: Tensor) -> State:
        """Zero."""
        return (torch.zeros_like(like),)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """One step, see the class."""
        hidden = state[0] if mask is None else state[0] * mask
        return (self.activation.function(torch.baddbmm(drive[0], hidden, weights["recurrent"])),)

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` is empty."""
        (mean,) = drive.dense()
        states = torch.empty_like(mean, memory_format=torch.contiguous_format)
        hidden = torch.zeros_like(mean[:, 0])
        for t, (drive_t, state) in enumerate(zip(mean.unbind(1), states.unbind(1), strict=True)):
            if mask is not None:
                hidden = hidden * mask[:, t]
            matrix = self.at_step(weights, t, mean.shape[1])["recurrent"]
            hidden = state.copy_(self.activation.function(torch.baddbmm(drive_t, hidden, matrix)))
        return Tape(drive=drive, states=states, gates=states.unsqueeze(-2), saved=())

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """``delta_t = f'(a_t) (dE/dh_t + m_{t+1} (delta_{t+1} W^T))`` and ``dE/dW = sum_t (m_t h_{t-1})^T delta_t``."""
        delta = self._signals(weights, tape.states, mask, cotangent, window)
        weights_gradient = {"recurrent": recurrent_gradient(tape.states, mask, delta)}
        return Flow(net=delta, drive=tape.drive.collect((delta,)), weights=weights_gradient, carousel=None)

    def _signals(
        self, weights: Weights, states: Tensor, mask: Tensor | None, cotangent: Tensor, window: Tensor | None
    ) -> Tensor:
        """The error signals delta."""
        length, n_read = states.shape[1], cotangent.shape[1]
        reached = reach(window, length, n_read)
        # The slopes become the error signals in place: the memory traffic weighs as much as the products.
        delta = self.activation.slope_from_value(states)
        delta[:, : reached.first] = 0
        steps = delta.unbind(1)
        arriving = cotangent[:, -1]
        for t in reversed(range(reached.first, length)):
            now = steps[t].mul_(arriving)
            if t > reached.first:
                through = torch.bmm(now, self.at_step(weights, t, length)["recurrent"].mT)
                arriving = reached.sever(t - 1, through)
                if mask is not None:
                    arriving *= mask[:, t]
                if t - 1 >= length - n_read:
                    arriving += cotangent[:, t - 1 - length + n_read]
        return delta

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """``f'(a_t) (u W)``."""
        (u,) = before
        slope = self.activation.slope_from_value(tape.states[:, t, : u.shape[1]])
        matrix = self.at_step(weights, t, tape.states.shape[1])["recurrent"]
        return (slope.mul_(torch.bmm(u, matrix)),)

    def relative_slope(self, gates: Tensor) -> Tensor:
        """``f'(a) / f'_max``."""
        return self.activation.slope_from_value(gates) / self.activation.slope_max


def recurrent_gradient(states: Tensor, mask: Tensor | None, delta: Tensor) -> Tensor:
    """``sum_t (m_t h_{t-1})^T delta_t``, the gradient of a recurrent matrix, as one product per member.

    Args:
        states: h_t, ``[K, T, B, H]``; the state before the first step is zero.
        mask: ``[K, T, B, H]`` or None.
        delta: error signals at what the matrix feeds, ``[K, T, B, F]``.

    Returns:
        ``[K, H, F]``.
    """
    before = states[:, :-1] if mask is None else states[:, :-1] * mask[:, 1:]
    return before.flatten(1, 2).mT @ delta[:, 1:].flatten(1, 2)
