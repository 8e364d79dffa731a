"""Cells whose passes through a sequence are compiled for the device; everything else is the cell's own."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from functools import cache

import torch
from torch import Tensor

from models.cell import Cell, Flow, Gradients, State, Tape, Weights
from models.drive import Drive
from models.elman import Elman
from models.fast_elman import FastElman
from models.gru import Gru
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

    On a processor members and, in the forward pass where there are fewer of them than threads, rows of the batch are
    spread over as many threads as ``torch`` uses; no result depends on it.
    """

    def __init__(self, cell: Cell) -> None:
        """The fused form of this cell."""
        self.plain = cell
        self.n_gates, self.gate_names, self.candidate_gate = cell.n_gates, cell.gate_names, cell.candidate_gate
        self.slope_max = cell.slope_max
        self.forget_gate, self.input_gate = cell.forget_gate, cell.input_gate

    @property
    def source(self) -> str:  # type: ignore[override]
        """The cell's own."""
        return self.plain.source

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The cell's own."""
        return self.plain.shapes(n_hidden)

    def start(self, like: Tensor) -> State:
        """The cell's own."""
        return self.plain.start(like)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """The cell's own."""
        return self.plain.step(weights, state, drive, mask)

    def tangent(self, weights: Weights, tape: Tape, t: int, before: State, mask: Tensor | None) -> State:
        """The cell's own."""
        return self.plain.tangent(weights, tape, t, before, mask)

    def relative_slope(self, gates: Tensor) -> Tensor:
        """The cell's own."""
        return self.plain.relative_slope(gates)

    @torch.no_grad()
    def forward(self, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """See ``Cell.forward``."""
        kernels = kernels_for(drive.parts[0].device)
        if kernels is None:
            return self.plain.forward(weights, drive, mask)
        held = Drive(parts=tuple(part.contiguous() for part in drive.parts), codes=drive.codes)
        states = drive.parts[0].new_empty(*drive.grid, drive.parts[0].shape[-1] // self.n_gates)
        return self._forward(kernels, _held(weights), held, _like(mask, states), states)

    @torch.no_grad()
    def backward(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Flow:
        """See ``Cell.backward``."""
        kernels = kernels_for(cotangent.device)
        if kernels is None:
            return self.plain.backward(weights, tape, mask, cotangent)
        return self._backward(kernels, _held(weights), tape, _like(mask, cotangent), cotangent.contiguous(), kept=True)

    @torch.no_grad()
    def gradients(self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor) -> Gradients:
        """See ``Cell.gradients``."""
        kernels = kernels_for(cotangent.device)
        if kernels is None:
            return self.plain.gradients(weights, tape, mask, cotangent)
        # Without codes the error signals are the gradient by the drive.
        kept = tape.drive.codes is None
        return self._backward(kernels, _held(weights), tape, _like(mask, cotangent), cotangent.contiguous(), kept=kept)

    @abstractmethod
    def _forward(
        self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor
    ) -> Tape: ...

    @abstractmethod
    def _backward(
        self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, *, kept: bool
    ) -> Flow:
        """The flow; its error signals are empty unless they are to be kept."""


class FusedElman(Fused):
    """``models.elman.Elman``, fused."""

    def __init__(self, cell: Elman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind = KINDS[cell.activation.name]

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        kernels.elman_forward(self._kind, drive, weights["recurrent"], mask, states)
        return Tape(drive=drive, states=states, gates=states.unsqueeze(-2), saved=())

    def _backward(
        self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, *, kept: bool
    ) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta, d_matrix = _signals(tape.states, kept), torch.empty_like(matrix)
        (d_drive,) = _tables(tape.drive)
        kernels.elman_backward(self._kind, tape.states, matrix, mask, cotangent, codes, delta, d_drive, d_matrix)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix}, carousel=None)


class FusedLstm(Fused):
    """``models.lstm.Lstm``, fused."""

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        cells, squashed, gates = torch.empty_like(states), torch.empty_like(states), kernels.new_gates(states, 4)
        kernels.lstm_forward(drive, weights["recurrent"], mask, states, gates, cells, squashed)
        return Tape(drive=drive, states=states, gates=gates, saved=(cells, squashed))

    def _backward(
        self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, *, kept: bool
    ) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta, carousel = _signals(tape.gates.flatten(-2) if kept else tape.states, kept), _signals(tape.states, kept)
        (d_drive,), d_matrix = _tables(tape.drive), torch.empty_like(matrix)
        cells, squashed = tape.saved
        held = (tape.states, tape.gates, cells, squashed, matrix)
        kernels.lstm_backward(*held, mask, cotangent, codes, delta, carousel, d_drive, d_matrix)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix}, carousel=carousel)


class FusedGru(Fused):
    """``models.gru.Gru``, fused."""

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        reset, gates = torch.empty_like(states), kernels.new_gates(states, 3)
        kernels.gru_forward(drive, weights["recurrent"], weights["recurrent_bias"], mask, states, gates, reset)
        return Tape(drive=drive, states=states, gates=gates, saved=(reset,))

    def _backward(
        self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, *, kept: bool
    ) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta = _signals(tape.gates.flatten(-2) if kept else tape.states, kept)
        (d_drive,), d_matrix = _tables(tape.drive), torch.empty_like(matrix)
        d_bias = torch.empty_like(weights["recurrent_bias"])
        (reset,) = tape.saved
        held = (tape.states, tape.gates, reset, matrix)
        kernels.gru_backward(*held, mask, cotangent, codes, delta, d_drive, d_matrix, d_bias)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix, "recurrent_bias": d_bias}, carousel=None)


class FusedFastElman(Fused):
    """``models.fast_elman.FastElman``, fused."""

    def __init__(self, cell: FastElman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind = KINDS[cell.activation.name]

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        mus, s2s, spreads = states.new_empty(3, *states.shape)
        matrix = weights["recurrent"]
        kernels.fast_elman_forward(self._kind, drive, matrix, _p_keep(matrix, mask), states, mus, s2s, spreads)
        return Tape(drive=drive, states=states, gates=states.unsqueeze(-2), saved=(mus, s2s, spreads))

    def _backward(
        self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, *, kept: bool
    ) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta, epsilon = _signals(tape.states, kept), _signals(tape.states, kept)
        d_mean, d_variance = _tables(tape.drive)
        (mus, s2s, spreads), d_matrix = tape.saved, torch.empty_like(matrix)
        held = (tape.states, mus, s2s, spreads, matrix, _p_keep(matrix, mask), cotangent)
        kernels.fast_elman_backward(self._kind, *held, codes, delta, epsilon, d_mean, d_variance, d_matrix)
        flow = (delta, epsilon) if codes is None else (d_mean, d_variance)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix}, carousel=None)


def _signals(like: Tensor, kept: bool) -> Tensor:
    """Room for error signals, or the empty tensor that stands for signals nobody wants."""
    return torch.empty_like(like, memory_format=torch.contiguous_format) if kept else like.new_empty(0, 0, 0, 0)


def _tables(drive: Drive) -> tuple[Tensor, ...]:
    """Room for gradients by the drive's parts; empty where these are the error signals."""
    if drive.codes is None:
        return tuple(part.new_empty(0, 0, 0) for part in drive.parts)
    return tuple(torch.empty_like(part) for part in drive.parts)


def _held(weights: Weights) -> Weights:
    """The weights as the kernels need them: detached, without gaps."""
    return {name: weight.detach().contiguous() for name, weight in weights.items()}


def _like(mask: Tensor | None, other: Tensor) -> Tensor | None:
    return None if mask is None else mask.to(other.dtype).contiguous()


def _p_keep(matrix: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(matrix[:, :1, :1]) if mask is None else mask
