"""Long short-term memory."""

from __future__ import annotations

import torch
from torch import Tensor

from models.cell import Cell, Drive, Flow, State, Tape, Weights
from models.elman import recurrent_gradient

_INPUT, _FORGET, _CANDIDATE, _OUTPUT = range(4)


class Lstm(Cell):
    """``c_t = f_t c_{t-1} + i_t g_t``, ``h_t = o_t tanh(c_t)``; logistic gates i, f, o and candidate g = tanh.

    The net inputs of i, f, g, o, in this order, are the blocks of ``drive_t + h_{t-1} W``, W = ``recurrent``
    ``[K, H, 4H]``.

    Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000 (forget gate). Differs: squashing by tanh, no
    peepholes, full gradient, as torch.nn.LSTM.
    """

    source = "Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000"
    n_gates = 4
    candidate_gate = _CANDIDATE
    forget_gate = _FORGET

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The recurrent matrices of all gates side by side."""
        return {"recurrent": (n_hidden, 4 * n_hidden)}

    def start(self, drive: Drive) -> State:
        """Zero output and zero cell."""
        zero = torch.zeros_like(drive[0].chunk(4, dim=-1)[0])
        return zero, zero

    def step(self, weights: Weights, state: State, drive: Drive, mask: Tensor | None) -> State:
        """One step, see the class."""
        hidden, cell = state
        net = torch.baddbmm(drive[0], hidden if mask is None else hidden * mask, weights["recurrent"])
        i, f, g, o = net.chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` holds c_t and tanh(c_t), each ``[K, T, B, H]``."""
        (mean,) = drive
        activations = torch.empty_like(mean)
        n_hidden = mean.shape[-1] // 4
        states, cells, squashed = mean.new_empty(3, *mean.shape[:-1], n_hidden)
        hidden, cell = self.start((mean[:, 0],))
        for t in range(mean.shape[1]):
            if mask is not None:
                hidden = hidden * mask[:, t]
            net = torch.baddbmm(mean[:, t], hidden, weights["recurrent"])
            candidate = net[..., 2 * n_hidden : 3 * n_hidden].tanh()
            net.sigmoid_()
            net[..., 2 * n_hidden : 3 * n_hidden] = candidate
            i, f, _, o = net.chunk(4, dim=-1)
            cell = torch.addcmul(f * cell, i, candidate)
            tanh_cell = cell.tanh()
            hidden = o * tanh_cell
            activations[:, t], states[:, t], cells[:, t], squashed[:, t] = net, hidden, cell, tanh_cell
        return Tape(states=states, activations=activations, saved=(cells, squashed))

    def backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        """Through output and cell: ``dE/dc_t = o_t (1 - tanh^2 c_t) dE/dh_t + f_{t+1} dE/dc_{t+1}``.

        The error signals of the gates are ``dE/dc_t`` (``dE/dh_t`` for the output gate) times factors that do not
        depend on the errors and are computed for all steps at once.
        """
        cells, squashed = tape.saved
        states = tape.states
        (n_members, length, n_sequences, n_hidden), n_read = states.shape, cotangent.shape[1]
        gates = tape.activations.view(n_members, length, n_sequences, 4, n_hidden)
        i, f, g, o = gates.unbind(3)
        factor = gates * (1 - gates)
        factor[..., _INPUT, :] *= g
        factor[:, 1:, :, _FORGET] *= cells[:, :-1]
        factor[:, 0, :, _FORGET] = 0
        factor[..., _CANDIDATE, :] = i * (1 - g * g)
        factor[..., _OUTPUT, :] *= squashed
        to_cell = o * (1 - squashed * squashed)
        delta, carousel = torch.empty_like(tape.activations), torch.empty_like(states)
        transposed = weights["recurrent"].mT
        d_hidden = cotangent[:, -1]
        d_cell = torch.zeros_like(d_hidden)
        for t in reversed(range(length)):
            d_cell = torch.addcmul(d_cell, d_hidden, to_cell[:, t])
            carousel[:, t] = d_cell
            now = torch.stack((d_cell, d_cell, d_cell, d_hidden), dim=2) * factor[:, t]
            now = now.flatten(2)
            delta[:, t] = now
            if t > 0:
                d_cell = d_cell * f[:, t]
                d_hidden = torch.bmm(now, transposed)
                if mask is not None:
                    d_hidden *= mask[:, t]
                if t - 1 >= length - n_read:
                    d_hidden += cotangent[:, t - 1 - length + n_read]
        gradient = recurrent_gradient(states, mask, delta)
        return Flow(net=delta, drive=(delta,), weights={"recurrent": gradient}, carousel=carousel)

    def relative_slope(self, activations: Tensor) -> Tensor:
        """``f'(a) / f'_max``: 4 y (1 - y) for the gates, 1 - y^2 for the candidate."""
        i, f, g, o = activations.chunk(4, dim=-1)
        return torch.cat([4 * i * (1 - i), 4 * f * (1 - f), 1 - g * g, 4 * o * (1 - o)], dim=-1)
