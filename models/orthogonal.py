"""A recurrent matrix that stays orthogonal whatever the updates: the exponential of a skew-symmetric one."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from models.cell import Cell, Flow, Gradients, State, Tape, Weights
from models.drive import Drive


class Orthogonal(Cell):
    """A cell with one square recurrent matrix ``W = exp(S)``, ``S = A - A^T``, A the upper triangle of ``skew``.

    ``skew`` ``[K, H, H]`` takes W's place among the parameters; what is not above its diagonal has no effect. W is a
    rotation, so that W alone neither lets errors vanish nor explode. Everything else is the cell's.

    Source: Lezcano-Casado & Martinez-Rubio 2019, the exponential parametrisation. Differs: nothing for real matrices
    with determinant 1; the nonlinearity is the cell's, not modReLU.
    """

    def __init__(self, cell: Cell) -> None:
        """This cell, kept orthogonal."""
        self.cell = cell
        self.n_gates, self.candidate_gate, self.slope_max = cell.n_gates, cell.candidate_gate, cell.slope_max

    @property
    def source(self) -> str:  # type: ignore[override]
        """Of the parametrisation and of the cell."""
        return f"Lezcano-Casado & Martinez-Rubio 2019, exponential parametrisation; {self.cell.source}"

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """What the matrix is made of."""
        return {"skew": (n_hidden, n_hidden)}

    def initial(self, generator: Generator, n_hidden: int) -> dict[str, Tensor]:
        """Rotations of pairs of units by angles that are uniform on [-pi, pi); an odd unit stays as it is.

        Source: Henaff, Szlam & LeCun 2016, one of the two that Lezcano-Casado & Martinez-Rubio use. Differs: nothing.
        """
        skew = torch.zeros(n_hidden, n_hidden, dtype=torch.float64)
        angles = torch.rand(n_hidden // 2, generator=generator, dtype=torch.float64)
        skew[0 : n_hidden - 1 : 2, 1::2] = angles.mul_(2 * math.pi).sub_(math.pi).diag()
        return {"skew": skew}

    def matrix(self, weights: Weights) -> Tensor:
        """W, ``[K, H, H]``."""
        return torch.matrix_exp(_skew_symmetric(weights["skew"]))

    def matrices(self, weights: Weights, length: int) -> Tensor:
        """W, for all steps."""
        return self.matrix(weights).unsqueeze(1)

    def start(self, like: Tensor) -> State:
        """The cell's own."""
        return self.cell.start(like)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """The cell's own, with W."""
        return self.cell.step({"recurrent": self.matrix(weights)}, state, drive, mask)

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """All steps; ``saved`` holds W, ``[K, 1, 1, H, H]``, the same everywhere, before what the cell saves."""
        matrix = self.matrix(weights)
        tape = self.cell.forward({"recurrent": matrix}, drive, mask)
        return Tape(drive=tape.drive, states=tape.states, gates=tape.gates, saved=(matrix[:, None, None], *tape.saved))

    @torch.no_grad()
    def read(self, weights: Weights, drive: Drive, mask: Tensor | None, n_read: int) -> Tensor:
        """As ``forward`` without tape."""
        return self.cell.read({"recurrent": self.matrix(weights)}, drive, mask, n_read)

    def n_kept(self, n_steps: int, n_read: int, device: torch.device) -> int:
        """The cell's own."""
        return self.cell.n_kept(n_steps, n_read, device)

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """The cell's own, and from dE/dW on to ``skew``."""
        held, inner = _opened(tape)
        flow = self.cell.backward(held, inner, mask, cotangent, window)
        by_skew = _through_exponential(weights["skew"], flow.weights["recurrent"])
        return Flow(net=flow.net, drive=flow.drive, weights={"skew": by_skew}, carousel=flow.carousel)

    @torch.no_grad()
    def gradients(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Gradients:
        """As ``backward`` without error flow."""
        held, inner = _opened(tape)
        found = self.cell.gradients(held, inner, mask, cotangent, window)
        return Gradients(
            drive=found.drive,
            weights={"skew": _through_exponential(weights["skew"], found.weights["recurrent"])},
        )

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """The cell's own, with W."""
        held, inner = _opened(tape)
        return self.cell.tangent(held, inner, t, before, mask)

    def relative_slope(self, gates: Tensor) -> Tensor:
        """The cell's own."""
        return self.cell.relative_slope(gates)


def _skew_symmetric(skew: Tensor) -> Tensor:
    upper = skew.triu(1)
    return upper - upper.mT


def _opened(tape: Tape) -> tuple[Weights, Tape]:
    """The weights that the cell saw, and its own tape."""
    matrix, *saved = tape.saved
    inner = Tape(drive=tape.drive, states=tape.states, gates=tape.gates, saved=tuple(saved))
    return {"recurrent": matrix[:, 0, 0]}, inner


def _through_exponential(skew: Tensor, gradient: Tensor) -> Tensor:
    """dE/dskew from ``G = dE/dW``: ``triu(D - D^T)`` with D the derivative of exp at S^T in the direction G.

    ``exp [[S^T, G], [0, S^T]] = [[W^T, D], [0, W^T]]``.

    Source: Al-Mohy & Higham 2009, the block form; Lezcano-Casado & Martinez-Rubio 2019, that the adjoint is the
    derivative at S^T. Differs: G is scaled to entries of at most 1, lest a large one cost D's digits.
    """
    n_hidden = skew.shape[-1]
    size = gradient.abs().amax((1, 2), keepdim=True)
    size = torch.where(size > 0, size, 1)
    transposed = -_skew_symmetric(skew)
    below = torch.cat((torch.zeros_like(transposed), transposed), dim=-1)
    blocks = torch.cat((torch.cat((transposed, gradient / size), dim=-1), below), dim=-2)
    derivative = size * torch.matrix_exp(blocks)[:, :n_hidden, n_hidden:]
    return (derivative - derivative.mT).triu(1)
