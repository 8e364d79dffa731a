"""What every recurrent cell is: parameter shapes, one reference step, and a fused pass through a whole sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from models.drive import Drive
from models.initial import Leak

Weights = Mapping[str, Tensor]
"""Parameters by name, each with a leading member axis K."""

State = tuple[Tensor, ...]
"""What a cell carries from step to step, each ``[K, B, H]``; the first is what readout and recurrence see."""


@dataclass(frozen=True, kw_only=True)
class Tape:
    """What a forward pass leaves for the backward pass.

    ``drive`` is what it was given; ``states`` holds ``[K, T, B, H]``, the hidden state after every step; ``gates``
    holds ``[K, T, B, G, H]``, the units' values f(a_t) after their nonlinearities; ``saved`` is private to the cell.
    """

    drive: Drive
    states: Tensor
    gates: Tensor
    saved: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradients by the parts of the drive, each of its shape, and by the recurrent parameters."""

    drive: tuple[Tensor, ...]
    weights: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Flow(Gradients):
    """The error flow beside the gradients.

    ``net`` is delta_t = dE/da_t, ``[K, T, B, G*H]``, which is also the gradient by the drive's mean, place by place;
    ``carousel`` is dE/dc_t, ``[K, T, B, H]``, for cells that have one; ``state`` is what ``Cell.state_flow`` gives,
    where somebody has asked for it.
    """

    net: Tensor
    carousel: Tensor | None
    state: Tensor | None = None


class Cell(ABC):
    """A recurrent cell for a stack of K networks of the same shape.

    The weights a cell sees are its recurrent parameters alone; input projection and readout belong to the network.
    ``recurrent`` is laid out ``[K, H, G*H]``, so that the net input is ``state @ recurrent``; a cell whose net input
    sees no state has none.
    """

    source: ClassVar[str]
    n_gates: int
    gate_names: tuple[str, ...] = ()
    """Names of the blocks of a gated cell's net input, in their order; empty for a cell without gates."""
    slope_max: float | None = None
    """f'_max of a cell whose error signals obey ``delta_t = f'(a_t) (W delta_{t+1})``; None for any other."""
    candidate_gate: int
    """Index of the block whose recurrent matrix and net input stand for the cell in the statistics."""
    forget_gate: int | None = None
    """Index of the gate that multiplies what is remembered, whose bias is a hyperparameter; None without one."""
    input_gate: int | None = None
    """Index of the gate that multiplies what is new, where it is not one minus the forget gate."""
    exact_gradient: bool = True
    """Whether the backward pass is that of the recurrence; a truncated one leaves paths out, ``step`` likewise."""

    @abstractmethod
    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the recurrent parameters of one member, without the member axis."""

    def initial(self, generator: Generator, n_hidden: int) -> dict[str, Tensor]:
        """First values of the parameters of one member that start neither from a named initialiser nor from zero."""
        return {}

    def for_length(self, longest: int) -> Cell:
        """The cell of a network that meets sequences of up to this length; only a chain is another one for each."""
        return self

    def at_step(self, weights: Weights, t: int, length: int) -> Weights:
        """What ``step`` sees at step t of a sequence of this length: the weights, as all steps share them."""
        return weights

    def matrices(self, weights: Weights, length: int) -> Tensor | None:
        """What multiplies the states on their way through a sequence of this length; None where nothing does.

        ``[K, M, H, G*H]``, with M = 1 where all steps share a matrix.
        """
        return weights["recurrent"].unsqueeze(1) if "recurrent" in weights else None

    def fixed(self, generator: Generator, n_hidden: int, leak: Leak) -> dict[str, Tensor]:
        """The recurrent parameters of one member that are drawn and never trained: their gradient is zero, always.

        They are float64 on the CPU; most cells have none, and draw nothing.
        """
        return {}

    @abstractmethod
    def start(self, like: Tensor) -> State:
        """The zero state, each part of the shape ``[K, B, H]`` of the hidden state ``like``."""

    @abstractmethod
    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """One step of the recurrence, differentiable by autograd: the reference.

        ``weights`` are what ``at_step`` gives. ``drive`` parts are ``[K, B, G*H]``; ``mask`` ``[K, B, H]`` multiplies
        the previous hidden state on its way into the recurrent product (recurrent dropout; already divided by p_keep).
        Fast dropout draws nothing: there ``mask`` is the probability of keeping a recurrent unit, ``[K, 1, 1]``.
        """

    @abstractmethod
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """The whole sequence from the zero state; ``mask`` is ``[K, T, B, H]``, or as ``step`` says."""

    def read(self, weights: Weights, drive: Drive, mask: Tensor | None, n_read: int) -> Tensor:
        """The last states of ``forward``, ``[K, n_read, B, H]``, for those who do not ask for the tape."""
        return self.forward(weights, drive, mask).states[:, -n_read:].clone()

    def n_kept(self, n_steps: int, n_read: int, device: torch.device) -> int:
        """For how many of the steps ``read`` has room on a device: all, as it keeps the tape until it has read."""
        return n_steps

    @abstractmethod
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """Backpropagation through time, written by hand.

        ``cotangent`` ``[K, R, B, H]`` is dE/dh at the last R steps. In fast dropout, where h is a mean, that by its
        variance may stand behind it: ``[K, R, B, 2 H]``. With ``window``, int64 ``[K]``, errors flow back within
        windows of as many steps, as ``models.truncation.reach`` says; else all the way.
        """

    def gradients(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Gradients:
        """What ``backward`` gives, where nobody asks for the error flow: it need not be kept then."""
        return self.backward(weights, tape, mask, cotangent, window)

    def state_flow(self, weights: Weights, tape: Tape, flow: Flow, cotangent: Tensor) -> Tensor | None:
        """``dE/dh_t`` of a gated cell without dropout, ``[K, T, B, H]``, from what ``backward`` gave for ``cotangent``.

        None for a cell without gates, where it is ``W`` times the next error signal, and nothing besides.
        """
        return None

    def variance(self, tape: Tape, n_read: int) -> Tensor:
        """Variance of the hidden state at the last R steps, ``[K, R, B, H]``: none but in fast dropout."""
        return torch.zeros_like(tape.states[:, -n_read:])

    @abstractmethod
    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """How a small change of the state before step t changes the state after it: the Jacobian's product with it.

        ``before`` is the change, each part ``[K, n, H]``, for the first n sequences of a tape of ``forward``. ``mask``
        is None, or p_keep in fast dropout: there is no sampled noise.
        """

    @abstractmethod
    def relative_slope(self, gates: Tensor) -> Tensor:
        """Slope f'(a) of every unit over the largest slope its nonlinearity has, from f(a) ``[..., G, H]``."""


def readings(cotangent: Tensor, states: Tensor) -> Tensor:
    """The gradient by the states of all steps, of which the last R are read: ``cotangent`` behind zeros."""
    every = torch.zeros_like(states)
    every[:, -cotangent.shape[1] :] = cotangent
    return every
