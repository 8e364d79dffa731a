"""Long short-term memory as it was first published: without forget gate, its gradient truncated or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.activation import sigmoid_backward, tanh_backward
from models.cell import Cell, Flow, State, Tape, Weights, readings
from models.drive import Drive
from models.elman import recurrent_gradient
from models.lstm import state_signals
from models.truncation import reach


class Lstm1997(Cell):
    """``c_t = c_{t-1} + i_t g(a_t)``, ``h_t = o_t h(c_t)``, logistic i and o, in blocks of one cell each.

    ``g(x) = 4 / (1 + e^-x) - 2 = 2 tanh(x / 2)`` lies in [-2, 2], ``h(x) = 2 / (1 + e^-x) - 1 = tanh(x / 2)`` in
    [-1, 1]. The net inputs of i, g, o, in this order, are the blocks of ``drive_t + h_{t-1} W``, W = ``recurrent``
    ``[K, H, 3H]``.

    The truncated gradient takes net inputs for independent of h_{t-1}: errors flow back through c alone, a carousel on
    which they stay as they are.

    Source: Hochreiter & Schmidhuber 1997, section 4 and appendix A.1. Differs: the full gradient unless truncated; the
    paper's gates also read the other gates.
    """

    source = "Hochreiter & Schmidhuber 1997, section 4"
    n_gates = 3
    gate_names = ("input", "candidate", "output")
    candidate_gate = 1
    input_gate = 0

    def __init__(self, *, truncated: bool) -> None:
        """A cell with the paper's truncated gradient, or with the full one."""
        self.truncated, self.exact_gradient = truncated, not truncated

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The recurrent matrices of gates and candidate side by side."""
        return {"recurrent": (n_hidden, 3 * n_hidden)}

    def start(self, like: Tensor) -> State:
        """Zero output and zero cell."""
        return torch.zeros_like(like), torch.zeros_like(like)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """One step, see the class."""
        hidden, cell = state
        if self.truncated:
            hidden = _Severed.apply(hidden)  # type: ignore[no-untyped-call]
        net = torch.baddbmm(drive[0], hidden if mask is None else hidden * mask, weights["recurrent"])
        i, g, o = net.chunk(3, dim=-1)
        cell = cell + i.sigmoid() * 2 * (g / 2).tanh()
        return o.sigmoid() * (cell / 2).tanh(), cell

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` holds c_t, ``[K, T, B, H]``."""
        (mean,) = drive.dense()
        activations = torch.empty_like(mean, memory_format=torch.contiguous_format)
        n_hidden = mean.shape[-1] // 3
        states, cells = mean.new_empty(2, *mean.shape[:-1], n_hidden)
        hidden, cell = self.start(states[:, 0])
        for t, (drive_t, values) in enumerate(zip(mean.unbind(1), activations.unbind(1), strict=True)):
            if mask is not None:
                hidden = hidden * mask[:, t]
            net = torch.baddbmm(drive_t, hidden, weights["recurrent"])
            # All three blocks at once and one of them again, as in models.lstm.
            torch.sigmoid(net, out=values)
            i, g, o = values.chunk(3, dim=-1)
            g.copy_((net[..., n_hidden : 2 * n_hidden] / 2).tanh_()).mul_(2)
            cell = torch.addcmul(cell, i, g, out=cells[:, t])
            hidden = torch.mul(o, torch.tanh(cell / 2), out=states[:, t])
        gates = activations.view(*states.shape[:-1], 3, n_hidden)
        return Tape(drive=drive, states=states, gates=gates, saved=(cells,))

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """Through output and cell: ``dE/dc_t = o_t (1 - h(c_t)^2) / 2 dE/dh_t + dE/dc_{t+1}``.

        The error signals of i and g are ``dE/dc_t`` times ``g_t i_t (1 - i_t)`` and ``i_t (1 - g_t^2 / 4)``; that of o
        is ``dE/dh_t h(c_t) o_t (1 - o_t)``. In the truncated gradient no error signal reaches h_{t-1}.
        """
        (cells,), states = tape.saved, tape.states
        length, n_read = states.shape[1], cotangent.shape[1]
        reached = reach(window, length, n_read)
        delta, carousel = torch.empty_like(tape.gates.flatten(-2)), torch.empty_like(states)
        delta[:, : reached.first], carousel[:, : reached.first] = 0, 0
        transposed = weights["recurrent"].mT
        d_hidden = cotangent[:, -1]
        d_cell = torch.zeros_like(d_hidden)
        for t in reversed(range(reached.first, length)):
            i, g, o = tape.gates[:, t].unbind(-2)
            delta_i, delta_g, delta_o = delta[:, t].chunk(3, dim=-1)
            flat = torch.tanh(cells[:, t] / 2)
            sigmoid_backward(d_hidden * flat, o, grad_input=delta_o)
            d_cell = torch.add(d_cell, tanh_backward(d_hidden * o, flat), alpha=0.5, out=carousel[:, t])
            sigmoid_backward(d_cell * g, i, grad_input=delta_i)
            tanh_backward(d_cell * i, g / 2, grad_input=delta_g)
            if t > reached.first:
                d_cell = reached.sever(t - 1, d_cell)
                d_hidden = torch.zeros_like(d_hidden) if self.truncated else torch.bmm(delta[:, t], transposed)
                d_hidden = reached.sever(t - 1, d_hidden)
                if mask is not None:
                    d_hidden *= mask[:, t]
                if t - 1 >= length - n_read:
                    d_hidden += cotangent[:, t - 1 - length + n_read]
        weights_gradient = {"recurrent": recurrent_gradient(states, mask, delta)}
        return Flow(net=delta, drive=tape.drive.collect((delta,)), weights=weights_gradient, carousel=carousel)

    def state_flow(self, weights: Weights, tape: Tape, flow: Flow, cotangent: Tensor) -> Tensor:
        """See ``models.lstm.state_signals``; the readings alone where the gradient is truncated."""
        if self.truncated:
            return readings(cotangent, tape.states)
        return state_signals(weights["recurrent"], tape.states, flow.net, cotangent)

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """The product rule on ``c_t = c_{t-1} + i g`` and ``h_t = o h(c_t)``; of the network, truncated or not."""
        (hidden, cell), n = before, before[0].shape[1]
        i, g, o = tape.gates[:, t, :n].unbind(-2)
        d_i, d_g, d_o = torch.bmm(hidden, weights["recurrent"]).chunk(3, dim=-1)
        after = cell + g * sigmoid_backward(d_i, i) + i * tanh_backward(d_g, g / 2)
        flat = torch.tanh(tape.saved[0][:, t, :n] / 2)
        return flat * sigmoid_backward(d_o, o) + o * tanh_backward(after, flat) / 2, after

    def relative_slope(self, gates: Tensor) -> Tensor:
        """``f'(a) / f'_max``: 4 y (1 - y) for the gates, 1 - y^2 / 4 for the candidate."""
        i, g, o = gates.unbind(-2)
        return torch.stack([4 * i * (1 - i), 1 - g * g / 4, 4 * o * (1 - o)], dim=-2)


class _Severed(torch.autograd.Function):
    """The identity, through which changes pass but no errors; ``detach`` would stop the changes as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        return None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0].clone()
