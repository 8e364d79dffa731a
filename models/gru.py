"""The gated recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor

from models.activation import sigmoid_backward, tanh_backward
from models.cell import Cell, Flow, State, Tape, Weights, readings
from models.drive import Drive
from models.elman import recurrent_gradient
from models.linear import linear
from models.truncation import reach


class Gru(Cell):
    """``n_t = tanh(drive_n + r_t (h_{t-1} W_n + b_n))``, ``h_t = (1 - z_t) n_t + z_t h_{t-1}``, logistic r and z.

    The blocks are r, z, n in this order: W = ``recurrent`` ``[K, H, 3H]``, b_n = ``recurrent_bias`` ``[K, H]``.

    Source: Cho et al. 2014, in the variant that resets after the product (Cho's appendix resets before it). Differs:
    nothing from torch.nn.GRU.
    """

    source = "Cho et al. 2014, reset after the product as in torch.nn.GRU"
    n_gates = 3
    gate_names = ("reset", "update", "candidate")
    candidate_gate = 2
    forget_gate = 1

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The recurrent matrices of all gates side by side, and the candidate's own bias."""
        return {"recurrent": (n_hidden, 3 * n_hidden), "recurrent_bias": (n_hidden,)}

    def start(self, like: Tensor) -> State:
        """Zero."""
        return (torch.zeros_like(like),)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """One step, see the class."""
        (hidden,) = state
        r, z, q = torch.bmm(hidden if mask is None else hidden * mask, weights["recurrent"]).chunk(3, dim=-1)
        drive_r, drive_z, drive_n = drive[0].chunk(3, dim=-1)
        r, z = (drive_r + r).sigmoid(), (drive_z + z).sigmoid()
        n = (drive_n + r * (q + weights["recurrent_bias"][:, None])).tanh()
        return (n + z * (hidden - n),)

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` holds ``h_{t-1} W_n + b_n``, ``[K, T, B, H]``."""
        (mean,) = drive.dense()
        n_hidden = mean.shape[-1] // 3
        activations = torch.empty_like(mean, memory_format=torch.contiguous_format)
        states, reset = mean.new_empty(2, *mean.shape[:-1], n_hidden)
        # The bias joins the product, and the gates' share of it is zero.
        bias = torch.nn.functional.pad(weights["recurrent_bias"], (2 * n_hidden, 0))[:, None]
        hidden = torch.zeros_like(states[:, 0])
        for t, (drive_t, values) in enumerate(zip(mean.unbind(1), activations.unbind(1), strict=True)):
            product = torch.baddbmm(bias, hidden if mask is None else hidden * mask[:, t], weights["recurrent"])
            gates = (drive_t[..., : 2 * n_hidden] + product[..., : 2 * n_hidden]).sigmoid_()
            r, z = gates.chunk(2, dim=-1)
            q = product[..., 2 * n_hidden :]
            n = torch.addcmul(drive_t[..., 2 * n_hidden :], r, q).tanh_()
            hidden = torch.lerp(n, hidden, z)
            # Copies: the same operations straight into the strided blocks of the tape take longer.
            values[..., : 2 * n_hidden], values[..., 2 * n_hidden :] = gates, n
            states[:, t], reset[:, t] = hidden, q
        gates = activations.view(*states.shape[:-1], 3, n_hidden)
        return Tape(drive=drive, states=states, gates=gates, saved=(reset,))

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """``dE/dh_{t-1} = z_t dE/dh_t + m_t (delta_rz W_rz^T + r_t delta_n W_n^T)``."""
        (reset,) = tape.saved
        states = tape.states
        (_, length, _, n_hidden), n_read = states.shape, cotangent.shape[1]
        reached = reach(window, length, n_read)
        delta, d_reset = torch.empty_like(tape.gates.flatten(-2)), torch.empty_like(states)
        delta[:, : reached.first], d_reset[:, : reached.first] = 0, 0
        to_gates, to_candidate = weights["recurrent"].mT.tensor_split((2 * n_hidden,), dim=1)
        zero = torch.zeros_like(states[:, 0])
        d_hidden = cotangent[:, -1]
        for t in reversed(range(reached.first, length)):
            r, z, n = tape.gates[:, t].unbind(-2)
            delta_r, delta_z, delta_n = delta[:, t].chunk(3, dim=-1)
            before = states[:, t - 1] if t > 0 else zero
            tanh_backward(torch.addcmul(d_hidden, d_hidden, z, value=-1), n, grad_input=delta_n)
            sigmoid_backward((before - n).mul_(d_hidden), z, grad_input=delta_z)
            sigmoid_backward(delta_n * reset[:, t], r, grad_input=delta_r)
            d_product = torch.mul(delta_n, r, out=d_reset[:, t])
            if t > reached.first:
                through = torch.bmm(delta[:, t, :, : 2 * n_hidden], to_gates).baddbmm_(d_product, to_candidate)
                if mask is not None:
                    through *= mask[:, t]
                d_hidden = reached.sever(t - 1, through.addcmul_(d_hidden, z))
                if t - 1 >= length - n_read:
                    d_hidden += cotangent[:, t - 1 - length + n_read]
        # d_reset is the error signal of h W_n, r_t delta_n.
        gates = recurrent_gradient(states, mask, delta[..., : 2 * states.shape[-1]])
        recurrent = torch.cat((gates, recurrent_gradient(states, mask, d_reset)), dim=-1)
        gradients = {"recurrent": recurrent, "recurrent_bias": d_reset.sum((1, 2))}
        return Flow(net=delta, drive=tape.drive.collect((delta,)), weights=gradients, carousel=None)

    def state_flow(self, weights: Weights, tape: Tape, flow: Flow, cotangent: Tensor) -> Tensor:
        """``dE/dh_{t-1}``, as ``backward`` has it."""
        n_hidden = tape.states.shape[-1]
        to_gates, to_candidate = weights["recurrent"].mT.tensor_split((2 * n_hidden,), dim=-2)
        r, z, _ = tape.gates.unbind(-2)
        delta, d_hidden = flow.net, readings(cotangent, tape.states)
        through = linear(delta[..., : 2 * n_hidden], to_gates) + linear(r * delta[..., 2 * n_hidden :], to_candidate)
        for t in range(tape.states.shape[1] - 1, 0, -1):
            d_hidden[:, t - 1] += torch.addcmul(through[:, t], z[:, t], d_hidden[:, t])
        return d_hidden

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """The product rule on ``n_t = tanh(drive_n + r q)`` and ``h_t = n_t + z (h_{t-1} - n_t)``."""
        (u,) = before
        n_rows = u.shape[1]
        q = tape.saved[0][:, t, :n_rows]
        r, z, n = tape.gates[:, t, :n_rows].unbind(-2)
        d_r, d_z, d_q = torch.bmm(u, weights["recurrent"]).chunk(3, dim=-1)
        d_n = tanh_backward(q * sigmoid_backward(d_r, r) + r * d_q, n)
        gap = tape.states[:, t - 1, :n_rows] - n if t > 0 else -n
        return (d_n + z * (u - d_n) + gap * sigmoid_backward(d_z, z),)

    def relative_slope(self, gates: Tensor) -> Tensor:
        """``f'(a) / f'_max``: 4 y (1 - y) for the gates, 1 - y^2 for the candidate."""
        r, z, n = gates.unbind(-2)
        return torch.stack([4 * r * (1 - r), 4 * z * (1 - z), 1 - n * n], dim=-2)
