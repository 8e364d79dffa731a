"""Cells whose passes through a sequence are compiled for the processor; everything else is the cell's own."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from models.cell import Cell, Drive, Flow, State, Tape, Weights
from models.elman import Elman, recurrent_gradient
from models.fast_elman import FastElman
from models.gru import Gru
from models.kernels.cpu import elman, fast_elman, gru, lstm
from models.kernels.cpu.product import padded
from models.kernels.cpu.threads import over_rows
from models.lstm import Lstm

KINDS = {"tanh": elman.TANH, "logistic": elman.LOGISTIC, "rectifier": elman.RECTIFIER}
"""Nonlinearities as the kernels number them."""


def fuse(cell: Cell) -> Cell:
    """The same cell with compiled passes; a cell for which there are none is returned as it is."""
    if isinstance(cell, Elman):
        return FusedElman(cell)
    if isinstance(cell, Lstm):
        return FusedLstm(cell)
    if isinstance(cell, Gru):
        return FusedGru(cell)
    if isinstance(cell, FastElman):
        return FusedFastElman(cell)
    return cell


class Fused(Cell):
    """A cell around another one, whose recurrence it computes on the processor; elsewhere the other computes it.

    Members and, where there are fewer of them than threads, rows of the batch are spread over ``torch``'s number of
    threads; no result depends on it.
    """

    def __init__(self, cell: Cell) -> None:
        """The fused form of this cell."""
        self.plain = cell
        self.n_gates, self.candidate_gate, self.forget_gate = cell.n_gates, cell.candidate_gate, cell.forget_gate

    @property
    def source(self) -> str:  # type: ignore[override]
        """The cell's own."""
        return self.plain.source

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The cell's own."""
        return self.plain.shapes(n_hidden)

    def start(self, drive: Drive) -> State:
        """The cell's own."""
        return self.plain.start(drive)

    def step(self, weights: Weights, state: State, drive: Drive, mask: Tensor | None) -> State:
        """The cell's own."""
        return self.plain.step(weights, state, drive, mask)

    def relative_slope(self, activations: Tensor) -> Tensor:
        """The cell's own."""
        return self.plain.relative_slope(activations)

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """See ``Cell.forward``."""
        if drive[0].device.type != "cpu":
            return self.plain.forward(weights, drive, mask)
        return self._forward(weights, tuple(part.contiguous() for part in drive), mask)

    @torch.no_grad()
    def backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        """See ``Cell.backward``."""
        if cotangent.device.type != "cpu":
            return self.plain.backward(weights, tape, mask, cotangent)
        return self._backward(weights, tape, mask, cotangent.contiguous())

    @abstractmethod
    def _forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape: ...

    @abstractmethod
    def _backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow: ...


class FusedElman(Fused):
    """``models.elman.Elman``, fused."""

    def __init__(self, cell: Elman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind = KINDS[cell.activation.name]

    def _forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        states = torch.empty_like(drive[0])
        arrays = (drive[0], _rows(weights["recurrent"]), _mask(mask, states), states)
        over_rows(elman.forward, *_grid(states), self._kind, *arrays)
        return Tape(states=states, activations=states, saved=())

    def _backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        delta = torch.empty_like(tape.states)
        arrays = (tape.states, _rows(weights["recurrent"].mT), _mask(mask, delta), cotangent, delta)
        over_rows(elman.backward, *_grid(delta), self._kind, *arrays)
        gradient = recurrent_gradient(tape.states, mask, delta)
        return Flow(net=delta, drive=(delta,), weights={"recurrent": gradient}, carousel=None)


class FusedLstm(Fused):
    """``models.lstm.Lstm``, fused."""

    def _forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        gates = torch.empty_like(drive[0])
        states, cells, squashed = gates.new_empty(3, *gates.shape[:-1], gates.shape[-1] // 4)
        arrays = (drive[0], _rows(weights["recurrent"]), _mask(mask, states), states, gates, cells, squashed)
        over_rows(lstm.forward, *_grid(states), *arrays)
        return Tape(states=states, activations=gates, saved=(cells, squashed))

    def _backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        delta, carousel = torch.empty_like(tape.activations), torch.empty_like(tape.states)
        held = (tape.activations, *tape.saved, _rows(weights["recurrent"].mT), _mask(mask, delta))
        over_rows(lstm.backward, *_grid(carousel), *held, cotangent, delta, carousel)
        gradient = recurrent_gradient(tape.states, mask, delta)
        return Flow(net=delta, drive=(delta,), weights={"recurrent": gradient}, carousel=carousel)


class FusedGru(Fused):
    """``models.gru.Gru``, fused."""

    def _forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        gates = torch.empty_like(drive[0])
        states, reset = gates.new_empty(2, *gates.shape[:-1], gates.shape[-1] // 3)
        held = (drive[0], _rows(weights["recurrent"]), weights["recurrent_bias"].contiguous(), _mask(mask, states))
        over_rows(gru.forward, *_grid(states), *held, states, gates, reset)
        return Tape(states=states, activations=gates, saved=(reset,))

    def _backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        delta, d_product = torch.empty_like(tape.activations), torch.empty_like(tape.activations)
        held = (tape.states, tape.activations, *tape.saved, _rows(weights["recurrent"].mT), _mask(mask, delta))
        over_rows(gru.backward, *_grid(tape.states), *held, cotangent, delta, d_product)
        n_hidden = tape.states.shape[-1]
        gradients = {
            "recurrent": recurrent_gradient(tape.states, mask, d_product),
            "recurrent_bias": d_product[..., 2 * n_hidden :].sum((1, 2)),
        }
        return Flow(net=delta, drive=(delta,), weights=gradients, carousel=None)


class FusedFastElman(Fused):
    """``models.fast_elman.FastElman``, fused; ``saved`` holds all of the tape as one tensor."""

    def __init__(self, cell: FastElman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind = KINDS[cell.activation.name]

    def _forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        tape = drive[0].new_empty(4, *drive[0].shape)
        p_keep, matrix = _p_keep(weights["recurrent"], mask), weights["recurrent"]
        matrices = (_rows(p_keep * matrix), _rows(p_keep * matrix.square()), (1 - p_keep).flatten())
        over_rows(fast_elman.forward, *_grid(tape[0]), self._kind, *drive, *matrices, tape)
        return Tape(states=tape[0], activations=tape[0], saved=(tape,))

    def _backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        (held,) = tape.saved
        delta, epsilon = torch.empty_like(tape.states), torch.empty_like(tape.states)
        p_keep, matrix = _p_keep(weights["recurrent"], mask), weights["recurrent"]
        matrices = (_rows((p_keep * matrix).mT), _rows((p_keep * matrix.square()).mT), (1 - p_keep).flatten())
        over_rows(fast_elman.backward, *_grid(delta), self._kind, held, *matrices, cotangent, delta, epsilon)
        through_mean = recurrent_gradient(tape.states, None, delta)
        through_variance = recurrent_gradient(held[3], None, epsilon)
        gradient = p_keep * torch.addcmul(through_mean, through_variance, matrix, value=2)
        return Flow(net=delta, drive=(delta, epsilon), weights={"recurrent": gradient}, carousel=None)


def _grid(states: Tensor) -> tuple[int, int]:
    """Members and rows of ``[K, T, B, H]``."""
    return states.shape[0], states.shape[2]


def _rows(matrix: Tensor) -> Tensor:
    """A matrix ``[K, N, M]`` whose rows are padded with zeros to whole vectors."""
    return pad(matrix.detach(), (0, padded(matrix.shape[-1], matrix.element_size()) - matrix.shape[-1])).contiguous()


def _mask(mask: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0, 0, 0, 0) if mask is None else mask.to(like.dtype).contiguous()


def _p_keep(matrix: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(matrix[:, :1, :1]) if mask is None else mask
