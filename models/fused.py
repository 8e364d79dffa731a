"""Cells whose passes through a sequence are compiled for the device; everything else is the cell's own."""

from __future__ import annotations

import torch
from torch import Tensor

from models.cell import Cell, Flow, Tape, Weights
from models.drive import Drive
from models.elman import Elman
from models.fast_elman import FastElman, by_moments
from models.fusion import Errors, Fused, signals, tables
from models.gru import Gru
from models.kernels.interface import KINDS, Kernels
from models.leaky import LeakyElman
from models.lstm import Lstm
from models.lstm_1997 import Lstm1997
from models.min_gru import MinGru
from models.orthogonal import Orthogonal
from models.state_space import StateSpace
from models.untied import UntiedElman


class FusedElman(Fused):
    """``models.elman.Elman``, fused."""

    def __init__(self, cell: Elman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind = KINDS[cell.activation.name]

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        kernels.elman_forward(self._kind, drive, weights["recurrent"], mask, states)
        return Tape(drive=drive, states=states, gates=states.unsqueeze(-2), saved=())

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta, d_matrix = signals(tape.states, errors.kept), torch.empty_like(matrix)
        (d_drive,) = tables(tape.drive)
        held = (tape.states, matrix, mask, errors.cotangent, errors.window, codes)
        kernels.elman_backward(self._kind, *held, delta, d_drive, d_matrix)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix}, carousel=None)


class FusedUntiedElman(Fused):
    """``models.untied.UntiedElman``, fused: on a processor in three fifths to two thirds of that one's time.

    Elman's gains more: its matrix stays in the caches, and all steps share the work of laying it out.
    """

    def __init__(self, cell: UntiedElman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind, self._first_layer = KINDS[cell.activation.name], cell.first_layer

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        # The kernel takes it for granted that there are layers enough.
        self._first_layer(drive.grid[1])
        kernels.untied_forward(self._kind, drive, weights["recurrent"], mask, states)
        return Tape(drive=drive, states=states, gates=states.unsqueeze(-2), saved=())

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        matrices, codes = weights["recurrent"], tape.drive.codes
        delta, d_matrices = signals(tape.states, errors.kept), torch.empty_like(matrices)
        (d_drive,) = tables(tape.drive)
        held = (tape.states, matrices, mask, errors.cotangent, errors.window, codes)
        kernels.untied_backward(self._kind, *held, delta, d_drive, d_matrices)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrices}, carousel=None)


class FusedLstm(Fused):
    """``models.lstm.Lstm``, fused."""

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        cells, gates = torch.empty_like(states), kernels.new_gates(states, 4)
        kernels.lstm_forward(drive, weights["recurrent"], mask, states, gates, cells)
        return Tape(drive=drive, states=states, gates=gates, saved=(cells,))

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta = signals(tape.gates.flatten(-2) if errors.kept else tape.states, errors.kept)
        carousel = signals(tape.states, errors.kept)
        (d_drive,), d_matrix = tables(tape.drive), torch.empty_like(matrix)
        (cells,) = tape.saved
        held = (tape.states, tape.gates, cells, matrix, mask, errors.cotangent, errors.window, codes)
        kernels.lstm_backward(*held, delta, carousel, d_drive, d_matrix)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix}, carousel=carousel)


class FusedLstm1997(Fused):
    """``models.lstm_1997.Lstm1997``, fused."""

    def __init__(self, cell: Lstm1997) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._truncated = cell.truncated

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        cells, gates = torch.empty_like(states), kernels.new_gates(states, 3)
        kernels.lstm_1997_forward(drive, weights["recurrent"], mask, states, gates, cells)
        return Tape(drive=drive, states=states, gates=gates, saved=(cells,))

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta = signals(tape.gates.flatten(-2) if errors.kept else tape.states, errors.kept)
        carousel = signals(tape.states, errors.kept)
        (d_drive,), d_matrix = tables(tape.drive), torch.empty_like(matrix)
        (cells,) = tape.saved
        held = (tape.states, tape.gates, cells, matrix, mask, errors.cotangent, errors.window, codes)
        kernels.lstm_1997_backward(self._truncated, *held, delta, carousel, d_drive, d_matrix)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix}, carousel=carousel)


class FusedGru(Fused):
    """``models.gru.Gru``, fused."""

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        reset, gates = torch.empty_like(states), kernels.new_gates(states, 3)
        kernels.gru_forward(drive, weights["recurrent"], weights["recurrent_bias"], mask, states, gates, reset)
        return Tape(drive=drive, states=states, gates=gates, saved=(reset,))

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta = signals(tape.gates.flatten(-2) if errors.kept else tape.states, errors.kept)
        (d_drive,), d_matrix = tables(tape.drive), torch.empty_like(matrix)
        d_bias = torch.empty_like(weights["recurrent_bias"])
        (reset,) = tape.saved
        held = (tape.states, tape.gates, reset, matrix)
        kernels.gru_backward(*held, mask, errors.cotangent, errors.window, codes, delta, d_drive, d_matrix, d_bias)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix, "recurrent_bias": d_bias}, carousel=None)


class FusedMinGru(Fused):
    """``models.min_gru.MinGru``, fused."""

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        gates = kernels.new_gates(states, 2)
        kernels.min_gru_forward(drive, states, gates)
        return Tape(drive=drive, states=states, gates=gates, saved=())

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        delta, codes = signals(tape.gates.flatten(-2) if errors.kept else tape.states, errors.kept), tape.drive.codes
        (d_drive,) = tables(tape.drive)
        kernels.min_gru_backward(tape.states, tape.gates, errors.cotangent, errors.window, codes, delta, d_drive)
        flow = (delta if codes is None else d_drive,)
        return Flow(net=delta, drive=flow, weights={}, carousel=None)


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

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        matrix, codes = weights["recurrent"], tape.drive.codes
        delta, epsilon = signals(tape.states, errors.kept), signals(tape.states, errors.kept)
        d_mean, d_variance = tables(tape.drive)
        (mus, s2s, spreads), d_matrix = tape.saved, torch.empty_like(matrix)
        by_mean, by_variance = by_moments(errors.cotangent, matrix.shape[-1])
        cotangents = by_mean.contiguous(), None if by_variance is None else by_variance.contiguous()
        held = (tape.states, mus, s2s, spreads, matrix, _p_keep(matrix, mask), *cotangents, errors.window, codes)
        kernels.fast_elman_backward(self._kind, *held, delta, epsilon, d_mean, d_variance, d_matrix)
        flow = (delta, epsilon) if codes is None else (d_mean, d_variance)
        return Flow(net=delta, drive=flow, weights={"recurrent": d_matrix}, carousel=None)


class FusedLeakyElman(Fused):
    """``models.leaky.LeakyElman``, fused."""

    def __init__(self, cell: LeakyElman) -> None:
        """The fused form of this cell."""
        super().__init__(cell)
        self._kind = KINDS[cell.activation.name]

    def _forward(self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor) -> Tape:
        units = torch.empty_like(states)
        kernels.leaky_forward(self._kind, drive, weights["recurrent"], weights["retention"], mask, states, units)
        return Tape(drive=drive, states=states, gates=units.unsqueeze(-2), saved=())

    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        matrix, retention, codes = weights["recurrent"], weights["retention"], tape.drive.codes
        delta, d_matrix = signals(tape.states, errors.kept), torch.empty_like(matrix)
        (d_drive,) = tables(tape.drive)
        held = (tape.states, tape.gates.squeeze(-2), matrix, retention, mask, errors.cotangent, errors.window, codes)
        kernels.leaky_backward(self._kind, *held, delta, d_drive, d_matrix)
        flow = (delta if codes is None else d_drive,)
        weights_gradient = {"recurrent": d_matrix, "retention": torch.zeros_like(retention)}
        return Flow(net=delta, drive=flow, weights=weights_gradient, carousel=None)


FUSED: dict[type[Cell], type[Fused]] = {
    Elman: FusedElman,
    StateSpace: FusedElman,
    UntiedElman: FusedUntiedElman,
    LeakyElman: FusedLeakyElman,
    Lstm: FusedLstm,
    Lstm1997: FusedLstm1997,
    Gru: FusedGru,
    MinGru: FusedMinGru,
    FastElman: FusedFastElman,
}
"""The fused form of every kind of cell that has one."""


def fuse(cell: Cell) -> Cell:
    """The same cell with compiled passes; one that has them already, or for which there are none, as it is."""
    if isinstance(cell, Orthogonal):
        return Orthogonal(fuse(cell.cell))
    fused = FUSED.get(type(cell))
    return cell if fused is None else fused(cell)


def _p_keep(matrix: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(matrix[:, :1, :1]) if mask is None else mask
