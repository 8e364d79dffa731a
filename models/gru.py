"""The gated recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor

from models.cell import Cell, Drive, Flow, State, Tape, Weights
from models.elman import recurrent_gradient


class Gru(Cell):
    """``n_t = tanh(drive_n + r_t (h_{t-1} W_n + b_n))``, ``h_t = (1 - z_t) n_t + z_t h_{t-1}``, logistic r and z.

    The blocks are r, z, n in this order: W = ``recurrent`` ``[K, H, 3H]``, b_n = ``recurrent_bias`` ``[K, H]``.

    Source: Cho et al. 2014, in the variant that resets after the product (Cho's appendix resets before it). Differs:
    nothing from torch.nn.GRU.
    """

    source = "Cho et al. 2014, reset after the product as in torch.nn.GRU"
    n_gates = 3
    candidate_gate = 2

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The recurrent matrices of all gates side by side, and the candidate's own bias."""
        return {"recurrent": (n_hidden, 3 * n_hidden), "recurrent_bias": (n_hidden,)}

    def start(self, drive: Drive) -> State:
        """Zero."""
        return (torch.zeros_like(drive[0].chunk(3, dim=-1)[0]),)

    def step(self, weights: Weights, state: State, drive: Drive, mask: Tensor | None) -> State:
        """One step, see the class."""
        (hidden,) = state
        r, z, q = torch.bmm(hidden if mask is None else hidden * mask, weights["recurrent"]).chunk(3, dim=-1)
        drive_r, drive_z, drive_n = drive[0].chunk(3, dim=-1)
        r, z = (drive_r + r).sigmoid(), (drive_z + z).sigmoid()
        n = (drive_n + r * (q + weights["recurrent_bias"][:, None])).tanh()
        return (n + z * (hidden - n),)

    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` holds ``h_{t-1} W_n + b_n``, ``[K, T, B, H]``."""
        (mean,) = drive
        n_hidden = mean.shape[-1] // 3
        activations = torch.empty_like(mean)
        states, reset = mean.new_empty(2, *mean.shape[:-1], n_hidden)
        # The bias joins the product, and the gates' share of it is zero.
        bias = torch.nn.functional.pad(weights["recurrent_bias"], (2 * n_hidden, 0))[:, None]
        hidden = torch.zeros_like(states[:, 0])
        for t in range(mean.shape[1]):
            product = torch.baddbmm(bias, hidden if mask is None else hidden * mask[:, t], weights["recurrent"])
            gates = (mean[:, t, :, : 2 * n_hidden] + product[..., : 2 * n_hidden]).sigmoid_()
            r, z = gates.chunk(2, dim=-1)
            q = product[..., 2 * n_hidden :]
            n = torch.addcmul(mean[:, t, :, 2 * n_hidden :], r, q).tanh_()
            hidden = torch.lerp(n, hidden, z)
            activations[:, t, :, : 2 * n_hidden], activations[:, t, :, 2 * n_hidden :] = gates, n
            states[:, t], reset[:, t] = hidden, q
        return Tape(states=states, activations=activations, saved=(reset,))

    def backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        """``dE/dh_{t-1} = z_t dE/dh_t + m_t ((delta_r, delta_z, r_t delta_n) W^T)``.

        All error signals of a step are dE/dh_t times factors that are computed for all steps at once.
        """
        (reset,) = tape.saved
        states = tape.states
        length, n_read = states.shape[1], cotangent.shape[1]
        r, z, n = tape.activations.chunk(3, dim=-1)
        before = torch.cat((torch.zeros_like(states[:, :1]), states[:, :-1]), dim=1)
        to_n = (1 - z) * (1 - n * n)
        to_z = (before - n) * z * (1 - z)
        to_r = to_n * reset * r * (1 - r)
        factor = torch.stack((to_r, to_z, to_n * r), dim=3)
        arrived, fed = torch.empty_like(states), torch.empty_like(tape.activations)
        transposed = weights["recurrent"].mT
        d_hidden = cotangent[:, -1]
        for t in reversed(range(length)):
            arrived[:, t] = d_hidden
            now = (d_hidden.unsqueeze(2) * factor[:, t]).flatten(2)
            fed[:, t] = now
            if t > 0:
                through = torch.bmm(now, transposed)
                if mask is not None:
                    through *= mask[:, t]
                d_hidden = torch.addcmul(through, d_hidden, z[:, t])
                if t - 1 >= length - n_read:
                    d_hidden += cotangent[:, t - 1 - length + n_read]
        d_r, d_z, d_q = fed.chunk(3, dim=-1)
        delta = torch.cat((d_r, d_z, arrived * to_n), dim=-1)
        gradients = {"recurrent": recurrent_gradient(states, mask, fed), "recurrent_bias": d_q.sum((1, 2))}
        return Flow(net=delta, drive=(delta,), weights=gradients, carousel=None)

    def relative_slope(self, activations: Tensor) -> Tensor:
        """``f'(a) / f'_max``: 4 y (1 - y) for the gates, 1 - y^2 for the candidate."""
        r, z, n = activations.chunk(3, dim=-1)
        return torch.cat([4 * r * (1 - r), 4 * z * (1 - z), 1 - n * n], dim=-1)
