"""Cells whose passes through a sequence are compiled for the device; everything else is the cell's own."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from functools import cache

import torch
from torch import Tensor

from models.cell import Cell, Drive, Flow, State, Tape, Weights
from models.elman import Elman, recurrent_gradient
from models.fast_elman import FastElman
from models.gru import Gru, recurrent_gradients
from models.kernels.cpu import passes as cpu
from models.kernels.interface import KINDS, Kernels
from models.lstm import Lstm


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


def kernels_for(device: torch.device) -> Kernels | None:
    """The compiled passes of a kind of device, None where there are none."""
    if device.type == "cpu":
        return cpu
    return _gpu_kernels() if device.type == "cuda" else None


@cache
def _gpu_kernels() -> Kernels | None:
    try:
        from models.kernels.gpu import passes as gpu
    except ImportError:
        warnings.warn("kernels for GPUs need triton, but it is not installed: training will be slower", stacklevel=3)
        return None
    return gpu


class Fused(Cell):
    """A cell around another one, whose recurrence compiled code computes; where there is none the other computes it.

    On a processor members and, where there are fewer of them than threads, rows of the batch are spread over as many
    threads as ``torch`` uses; no result depends on it.
    """

    def __init__(self, cell: Cell) -> None:
        """The fused form of this cell."""
        self.plain = cell
        self.n_gates, self.candidate_gate = cell.n_gates, cell.candidate_gate
        self.forget_gate, self.input_gate = cell.forget_gate, cell.input_gate

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

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """The cell's own."""
        return self.plain.tangent(weights, tape, t, before, mask)

    def relative_slope(self, activations: Tensor) -> Tensor:
        """The cell's own."""
        return self.plain.relative_slope(activations)

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """See ``Cell.forward``."""
        kernels = kernels_for(drive[0].device)
        if kernels is None:
            return self.plain.forward(weights, drive, mask)
        return self._forward(kernels, _held(weights), tuple(part.contiguous() for part in drive), _like(mask, drive[0]))

    @torch.no_grad()
    def backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        """See ``Cell.backward``."""
        kernels = kernels_for(cotangent.device)
        if kernels is None:
            return self.plain.backward(weights, tape, mask, cotangent)
        return self._backward(kernels, _held(weights), tape, _like(mask, cotangent), cotangent.contiguous())

    @abstractmethod
    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape: ...

    @abstractmethod
    def _backward(
        self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor
    ) -> Flow: ...


class FusedElman(Fused):
    """``models.elman.Elman``, fused."""

    def __init__(self, cell: Elman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind = KINDS[cell.activation.name]

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        states = torch.empty_like(drive[0])
        kernels.elman_forward(self._kind, drive[0], weights["recurrent"], mask, states)
        return Tape(states=states, activations=states, saved=())

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        delta = torch.empty_like(tape.states)
        kernels.elman_backward(self._kind, tape.states, weights["recurrent"], mask, cotangent, delta)
        gradient = recurrent_gradient(tape.states, mask, delta)
        return Flow(net=delta, drive=(delta,), weights={"recurrent": gradient}, carousel=None)


class FusedLstm(Fused):
    """``models.lstm.Lstm``, fused."""

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        gates = torch.empty_like(drive[0])
        states, cells, squashed = gates.new_empty(3, *gates.shape[:-1], gates.shape[-1] // 4)
        kernels.lstm_forward(drive[0], weights["recurrent"], mask, states, gates, cells, squashed)
        return Tape(states=states, activations=gates, saved=(cells, squashed))

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        delta, carousel = torch.empty_like(tape.activations), torch.empty_like(tape.states)
        cells, squashed = tape.saved
        kernels.lstm_backward(tape.activations, cells, squashed, weights["recurrent"], mask, cotangent, delta, carousel)
        gradient = recurrent_gradient(tape.states, mask, delta)
        return Flow(net=delta, drive=(delta,), weights={"recurrent": gradient}, carousel=carousel)


class FusedGru(Fused):
    """``models.gru.Gru``, fused."""

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        gates = torch.empty_like(drive[0])
        states, reset = gates.new_empty(2, *gates.shape[:-1], gates.shape[-1] // 3)
        kernels.gru_forward(drive[0], weights["recurrent"], weights["recurrent_bias"], mask, states, gates, reset)
        return Tape(states=states, activations=gates, saved=(reset,))

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        delta, d_reset = torch.empty_like(tape.activations), torch.empty_like(tape.states)
        (reset,) = tape.saved
        kernels.gru_backward(
            tape.states, tape.activations, reset, weights["recurrent"], mask, cotangent, delta, d_reset
        )
        gradients = recurrent_gradients(tape.states, mask, delta, d_reset)
        return Flow(net=delta, drive=(delta,), weights=gradients, carousel=None)


class FusedFastElman(Fused):
    """``models.fast_elman.FastElman``, fused."""

    def __init__(self, cell: FastElman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind = KINDS[cell.activation.name]

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        means, mus, s2s, spreads = drive[0].new_empty(4, *drive[0].shape)
        matrix, (mean, variance) = weights["recurrent"], drive
        p_keep = _p_keep(matrix, mask)
        kernels.fast_elman_forward(self._kind, mean, variance, matrix, p_keep, means, mus, s2s, spreads)
        return Tape(states=means, activations=means, saved=(mus, s2s, spreads))

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        mus, s2s, spreads = tape.saved
        delta, epsilon = torch.empty_like(tape.states), torch.empty_like(tape.states)
        matrix = weights["recurrent"]
        p_keep = _p_keep(matrix, mask)
        kernels.fast_elman_backward(self._kind, tape.states, mus, s2s, matrix, p_keep, cotangent, delta, epsilon)
        through_mean = recurrent_gradient(tape.states, None, delta)
        through_variance = recurrent_gradient(spreads, None, epsilon)
        gradient = p_keep * torch.addcmul(through_mean, through_variance, matrix, value=2)
        return Flow(net=delta, drive=(delta, epsilon), weights={"recurrent": gradient}, carousel=None)


def _held(weights: Weights) -> Weights:
    """The weights as the kernels need them: detached, without gaps."""
    return {name: weight.detach().contiguous() for name, weight in weights.items()}


def _like(mask: Tensor | None, other: Tensor) -> Tensor | None:
    return None if mask is None else mask.to(other.dtype).contiguous()


def _p_keep(matrix: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(matrix[:, :1, :1]) if mask is None else mask
