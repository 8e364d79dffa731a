"""The minimal gated recurrent unit, whose gate sees the input alone."""

from __future__ import annotations

import torch
from torch import Tensor

from models.activation import sigmoid_backward
from models.cell import Cell, Flow, State, Tape, Weights, readings
from models.drive import Drive
from models.truncation import reach


class MinGru(Cell):
    """``h_t = z_t h_{t-1} + (1 - z_t) n_t``, ``z_t = logistic(drive_z)``, ``n_t = drive_n``.

    The blocks are z, n in this order. No net input depends on a state: there are no recurrent weights, recurrent
    dropout has nothing to act on, and the states are sums that can be taken in parallel,
    ``h_t = sum_s (prod_{s<r<=t} z_r) (1 - z_s) n_s``.

    Source: Feng et al. 2024, "Were RNNs all we needed?", section 3.1, the form in the linear domain: the candidate has
    no nonlinearity. Differs: z is the share that is kept, as in ``models.gru``; the paper's is 1 - z, which is the same
    network with z's weights and biases negated.
    """

    source = "Feng et al. 2024, minGRU in the linear domain"
    n_gates = 2
    gate_names = ("update", "candidate")
    candidate_gate = 1
    forget_gate = 0

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    def start(self, like: Tensor) -> State:
        """Zero."""
        return (torch.zeros_like(like),)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """One step, see the class."""
        z, n = drive[0].chunk(2, dim=-1)
        return (n + z.sigmoid() * (state[0] - n),)

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` is empty."""
        (mean,) = drive.dense()
        gates = mean.reshape(*mean.shape[:-1], 2, -1).clone()
        z, n = gates[..., 0, :].sigmoid_(), gates[..., 1, :]
        states = torch.empty_like(n, memory_format=torch.contiguous_format)
        hidden = torch.zeros_like(states[:, 0])
        for t in range(states.shape[1]):
            hidden = torch.lerp(n[:, t], hidden, z[:, t], out=states[:, t])
        return Tape(drive=drive, states=states, gates=gates, saved=())

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """``dE/dh_{t-1} = z_t dE/dh_t``, where no error enters at step t - 1.

        The error signals of z and n are ``dE/dh_t`` times ``(h_{t-1} - n_t) z_t (1 - z_t)`` and ``1 - z_t``.
        """
        states, n_read = tape.states, cotangent.shape[1]
        reached = reach(window, states.shape[1], n_read)
        z, n = tape.gates.unbind(-2)
        d_hidden = readings(cotangent, states)
        for t in range(states.shape[1] - 1, reached.first, -1):
            d_hidden[:, t - 1] += reached.sever(t - 1, z[:, t] * d_hidden[:, t])
        before = torch.nn.functional.pad(states[:, :-1], (0, 0, 0, 0, 1, 0))
        delta = torch.cat((sigmoid_backward((before - n) * d_hidden, z), (1 - z) * d_hidden), dim=-1)
        return Flow(net=delta, drive=tape.drive.collect((delta,)), weights={}, carousel=None)

    def state_flow(self, weights: Weights, tape: Tape, flow: Flow, cotangent: Tensor) -> Tensor:
        """``dE/dh_{t-1} = reading_{t-1} + z_t dE/dh_t``."""
        d_hidden = readings(cotangent, tape.states)
        for t in range(tape.states.shape[1] - 1, 0, -1):
            d_hidden[:, t - 1] += tape.gates[:, t, :, 0] * d_hidden[:, t]
        return d_hidden

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """``z_t u``."""
        (u,) = before
        return (tape.gates[:, t, : u.shape[1], 0] * u,)

    def relative_slope(self, gates: Tensor) -> Tensor:
        """``f'(a) / f'_max``: 4 y (1 - y) for the gate, 1 for the candidate."""
        z, n = gates.unbind(-2)
        return torch.stack([4 * z * (1 - z), torch.ones_like(n)], dim=-2)
