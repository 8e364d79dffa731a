"""The simple recurrent network whose units integrate over time."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from models.activation import Activation
from models.cell import Cell, Flow, State, Tape, Weights
from models.drive import Drive
from models.elman import recurrent_gradient
from models.initial import Leak, retention
from models.truncation import reach


class LeakyElman(Cell):
    """``v_t = f(drive_t + h_{t-1} W)``, ``h_t = r h_{t-1} + (1 - r) v_t``, with a rate of its own for every unit.

    W = ``recurrent`` ``[K, H, H]`` is trained, r = ``retention`` ``[K, H]`` is not. With r = 0 it is Elman's network.

    Source: Bengio, Boulanger-Lewandowski & Pascanu 2012, leaky integration, alpha_i = r_i. Differs:
    recurrent dropout spares what a unit keeps of itself.
    """

    source = "Bengio, Boulanger-Lewandowski & Pascanu 2012, leaky integration"
    n_gates = 1
    candidate_gate = 0

    def __init__(self, activation: Activation) -> None:
        """A cell with this nonlinearity."""
        self.activation = activation

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The recurrent matrix, and what every unit keeps."""
        return {"recurrent": (n_hidden, n_hidden), "retention": (n_hidden,)}

    def fixed(self, generator: Generator, n_hidden: int, leak: Leak) -> dict[str, Tensor]:
        """What every unit keeps."""
        return {"retention": retention(generator, n_hidden, leak)}

    def start(self, like: Tensor) -> State:
        """Zero."""
        return (torch.zeros_like(like),)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """One step, see the class."""
        (hidden,) = state
        net = torch.baddbmm(drive[0], hidden if mask is None else hidden * mask, weights["recurrent"])
        return (_leak(weights["retention"].detach()[:, None], hidden, self.activation.function(net)),)

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` is empty."""
        (mean,) = drive.dense()
        units, states = mean.new_empty(2, *mean.shape)
        kept = weights["retention"][:, None]
        hidden = torch.zeros_like(states[:, 0])
        for t, drive_t in enumerate(mean.unbind(1)):
            net = torch.baddbmm(drive_t, hidden if mask is None else hidden * mask[:, t], weights["recurrent"])
            unit = units[:, t].copy_(self.activation.function(net))
            hidden = states[:, t].copy_(_leak(kept, hidden, unit))
        return Tape(drive=drive, states=states, gates=units.unsqueeze(-2), saved=())

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """``delta_t = f'(a_t) (1 - r) e_t`` with ``e_t = dE/dh_t + r e_{t+1} + m_{t+1} (delta_{t+1} W^T)``."""
        states = tape.states
        length, n_read = states.shape[1], cotangent.shape[1]
        reached = reach(window, length, n_read)
        kept = weights["retention"][:, None]
        delta = self.activation.slope_from_value(tape.gates.squeeze(-2)).mul_(1 - kept[:, None])
        delta[:, : reached.first] = 0
        transposed = weights["recurrent"].mT
        arriving = cotangent[:, -1]
        for t in reversed(range(reached.first, length)):
            now = delta[:, t].mul_(arriving)
            if t > reached.first:
                through = torch.bmm(now, transposed)
                if mask is not None:
                    through *= mask[:, t]
                arriving = reached.sever(t - 1, through.addcmul_(arriving, kept))
                if t - 1 >= length - n_read:
                    arriving += cotangent[:, t - 1 - length + n_read]
        gradients = {
            "recurrent": recurrent_gradient(states, mask, delta),
            "retention": torch.zeros_like(weights["retention"]),
        }
        return Flow(net=delta, drive=tape.drive.collect((delta,)), weights=gradients, carousel=None)

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """``r u + (1 - r) f'(a_t) (u W)``."""
        (u,) = before
        slope = self.activation.slope_from_value(tape.gates[:, t, : u.shape[1], 0])
        return (_leak(weights["retention"][:, None], u, slope.mul_(torch.bmm(u, weights["recurrent"]))),)

    def relative_slope(self, gates: Tensor) -> Tensor:
        """``f'(a) / f'_max`` of the nonlinearity."""
        return self.activation.slope_from_value(gates) / self.activation.slope_max


def _leak(kept: Tensor, before: Tensor, new: Tensor) -> Tensor:
    """``r before + (1 - r) new``; torch.lerp would take the difference of two infinite states."""
    return torch.addcmul(kept * before, 1 - kept, new)
