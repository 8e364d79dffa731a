"""Long short-term memory."""

from __future__ import annotations

import torch
from torch import Tensor

from models.activation import sigmoid_backward, tanh_backward
from models.cell import Cell, Flow, State, Tape, Weights, readings
from models.drive import Drive
from models.elman import recurrent_gradient
from models.linear import linear
from models.truncation import reach

_INPUT, _FORGET, _CANDIDATE, _OUTPUT = range(4)


class Lstm(Cell):
    """``c_t = f_t c_{t-1} + i_t g_t``, ``h_t = o_t tanh(c_t)``; logistic gates i, f, o and candidate g = tanh.

    The net inputs of i, f, g, o, in this order, are the blocks of ``drive_t + h_{t-1} W``, W = ``recurrent``
    ``[K, H, 4H]``.

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000 (forget gate). Differs: squashing by tanh,
    no peepholes, full gradient, as torch.nn.LSTM.
    """

    source = "Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000"
    n_gates = 4
    gate_names = ("input", "forget", "candidate", "output")
    candidate_gate = _CANDIDATE
    forget_gate = _FORGET
    input_gate = _INPUT

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The recurrent matrices of all gates side by side."""
        return {"recurrent": (n_hidden, 4 * n_hidden)}

    def start(self, like: Tensor) -> State:
        """Zero output and zero cell."""
        return torch.zeros_like(like), torch.zeros_like(like)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """One step, see the class."""
        hidden, cell = state
        net = torch.baddbmm(drive[0], hidden if mask is None else hidden * mask, weights["recurrent"])
        i, f, g, o = net.chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` holds c_t, ``[K, T, B, H]``."""
        (mean,) = drive.dense()
        activations = torch.empty_like(mean, memory_format=torch.contiguous_format)
        n_hidden = mean.shape[-1] // 4
        states, cells = mean.new_empty(2, *mean.shape[:-1], n_hidden)
        hidden, cell = self.start(states[:, 0])
        for t, (drive_t, values) in enumerate(zip(mean.unbind(1), activations.unbind(1), strict=True)):
            if mask is not None:
                hidden = hidden * mask[:, t]
            net = torch.baddbmm(drive_t, hidden, weights["recurrent"])
            # All four blocks at once and one of them again is faster than three strided ones.
            torch.sigmoid(net, out=values)
            i, f, g, o = values.chunk(4, dim=-1)
            torch.tanh(net[..., 2 * n_hidden : 3 * n_hidden], out=g)
            cell = torch.addcmul(f * cell, i, g, out=cells[:, t])
            hidden = torch.mul(o, torch.tanh(cell), out=states[:, t])
        gates = activations.view(*states.shape[:-1], 4, n_hidden)
        return Tape(drive=drive, states=states, gates=gates, saved=(cells,))

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """Through output and cell: ``dE/dc_t = o_t (1 - tanh^2 c_t) dE/dh_t + f_{t+1} dE/dc_{t+1}``.

        The error signals of i, f, g are ``dE/dc_t`` times ``g_t i_t (1 - i_t)``, ``c_{t-1} f_t (1 - f_t)`` and
        ``i_t (1 - g_t^2)``; that of o is ``dE/dh_t tanh(c_t) o_t (1 - o_t)``.
        """
        (cells,), states = tape.saved, tape.states
        length, n_read = states.shape[1], cotangent.shape[1]
        reached = reach(window, length, n_read)
        delta, carousel = torch.empty_like(tape.gates.flatten(-2)), torch.empty_like(states)
        delta[:, : reached.first], carousel[:, : reached.first] = 0, 0
        transposed = weights["recurrent"].mT
        zero = torch.zeros_like(states[:, 0])
        d_hidden, d_cell = cotangent[:, -1], zero
        for t in reversed(range(reached.first, length)):
            i, f, g, o = tape.gates[:, t].unbind(-2)
            delta_i, delta_f, delta_g, delta_o = delta[:, t].chunk(4, dim=-1)
            flat = torch.tanh(cells[:, t])
            sigmoid_backward(d_hidden * flat, o, grad_input=delta_o)
            d_cell = torch.add(d_cell, tanh_backward(d_hidden * o, flat), out=carousel[:, t])
            sigmoid_backward(d_cell * g, i, grad_input=delta_i)
            sigmoid_backward(d_cell * (cells[:, t - 1] if t > 0 else zero), f, grad_input=delta_f)
            tanh_backward(d_cell * i, g, grad_input=delta_g)
            if t > reached.first:
                d_cell = reached.sever(t - 1, d_cell * f)
                d_hidden = reached.sever(t - 1, torch.bmm(delta[:, t], transposed))
                if mask is not None:
                    d_hidden *= mask[:, t]
                if t - 1 >= length - n_read:
                    d_hidden += cotangent[:, t - 1 - length + n_read]
        gradient = recurrent_gradient(states, mask, delta)
        weights_gradient = {"recurrent": gradient}
        return Flow(net=delta, drive=tape.drive.collect((delta,)), weights=weights_gradient, carousel=carousel)

    def state_flow(self, weights: Weights, tape: Tape, flow: Flow, cotangent: Tensor) -> Tensor:
        """See ``state_signals``."""
        return state_signals(weights["recurrent"], tape.states, flow.net, cotangent)

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """The product rule on ``c_t = f c_{t-1} + i g`` and ``h_t = o tanh(c_t)``."""
        (hidden, cell), n = before, before[0].shape[1]
        (cells,) = tape.saved
        i, f, g, o = tape.gates[:, t, :n].unbind(-2)
        d_i, d_f, d_g, d_o = torch.bmm(hidden, weights["recurrent"]).chunk(4, dim=-1)
        after = f * cell + g * sigmoid_backward(d_i, i) + i * tanh_backward(d_g, g)
        if t > 0:
            after += cells[:, t - 1, :n] * sigmoid_backward(d_f, f)
        flat = torch.tanh(cells[:, t, :n])
        return flat * sigmoid_backward(d_o, o) + o * tanh_backward(after, flat), after

    def relative_slope(self, gates: Tensor) -> Tensor:
        """``f'(a) / f'_max``: 4 y (1 - y) for the gates, 1 - y^2 for the candidate."""
        i, f, g, o = gates.unbind(-2)
        return torch.stack([4 * i * (1 - i), 4 * f * (1 - f), 1 - g * g, 4 * o * (1 - o)], dim=-2)


def state_signals(matrix: Tensor, states: Tensor, delta: Tensor, cotangent: Tensor) -> Tensor:
    """``dE/dh_t = reading_t + delta_{t+1} W^T``, ``[K, T, B, H]``, where net inputs and readout alone see a state."""
    d_hidden = readings(cotangent, states)
    d_hidden[:, :-1] += linear(delta[:, 1:], matrix.mT)
    return d_hidden
