"""The deep feed-forward chain: the simple recurrent network unfolded in time, with weights of its own at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from models.activation import Activation
from models.cell import Cell, Flow, Tape, Weights
from models.elman import Elman


class UntiedElman(Elman):
    """``a_t = drive_t + h_{t-1} W_t``, ``h_t = f(a_t)``: a layer for every step, which reads that step's input.

    W = ``recurrent`` is ``[K, L, H, H]``, the matrices of L layers. A sequence of T <= L steps passes the last T of
    them: the network is as deep as the sequence is long, its last layer is always the one that is read, and W_{L-k} is
    what lies k layers before it. The first of the T matrices meets the zero state. What no training sequence is long
    enough to reach stays as it was drawn, but for weight decay.

    It tells what sharing the recurrent weights is good for: that apart it is Elman's network, and with equal matrices
    it is the same one, whose gradient is the sum of theirs. Input weights and bias remain shared, because all layers
    ask the same of an input, and because a second difference would not leave the first one to be blamed.

    Source: Rumelhart, Hinton & Williams 1986, the layered network that a recurrent one unfolds into, without the
    constraint that its layers have equal weights. Differs: input weights and bias are shared.
    """

    source = "Rumelhart, Hinton & Williams 1986, the network unfolded in time, recurrent weights not shared"

    def __init__(self, activation: Activation, n_layers: int = 1) -> None:
        """A chain of layers with this nonlinearity; ``for_length`` makes it as long as a study needs it."""
        super().__init__(activation)
        self.n_layers = n_layers

    def for_length(self, longest: int) -> Cell:
        """The chain with a layer for each step of the longest sequence."""
        return UntiedElman(self.activation, longest)

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The matrices of all layers."""
        return {"recurrent": (self.n_layers, n_hidden, n_hidden)}

    def first_layer(self, length: int) -> int:
        """Index of the layer that a sequence of this length enters first; raises ValueError if there are too few."""
        if length > self.n_layers:
            raise ValueError(
                f"a chain must have a layer for every step, but got {self.n_layers} layers and {length} steps"
            )
        return self.n_layers - length

    def at_step(self, weights: Weights, t: int, length: int) -> Weights:
        """W_t."""
        return {"recurrent": weights["recurrent"][:, self.first_layer(length) + t]}

    def matrices(self, weights: Weights, length: int) -> Tensor:
        """Those of all layers but the first, which meets the zero state; of a single layer its own."""
        return weights["recurrent"][:, min(self.first_layer(length) + 1, self.n_layers - 1) :]

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """``delta_t = f'(a_t) (dE/dh_t + m_{t+1} (delta_{t+1} W_{t+1}^T))``, ``dE/dW_t = (m_t h_{t-1})^T delta_t``."""
        delta, gradient = (
            self._signals(weights, tape.states, mask, cotangent, window),
            torch.empty_like(weights["recurrent"]),
        )
        write_layer_gradients(tape.states, mask, delta, gradient)
        return Flow(net=delta, drive=tape.drive.collect((delta,)), weights={"recurrent": gradient}, carousel=None)


def write_layer_gradients(states: Tensor, mask: Tensor | None, delta: Tensor, gradient: Tensor) -> None:
    """``(m_t h_{t-1})^T delta_t``, the gradient of the matrix of step t, into the last of ``[K, L, H, H]``; 0 before.

    The other arguments are those of ``recurrent_gradient``.
    """
    before = states[:, :-1] if mask is None else states[:, :-1] * mask[:, 1:]
    first = gradient.shape[1] - before.shape[1]
    gradient[:, :first] = 0
    torch.matmul(before.mT, delta[:, 1:], out=gradient[:, first:])
