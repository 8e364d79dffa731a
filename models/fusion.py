"""What fused cells share: which kernels a device has, and the passes around them."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor

from models.cell import Cell, Flow, Gradients, State, Tape, Weights
from models.drive import Drive
from models.initial import Leak
from models.kernels.cpu import passes as cpu
from models.kernels.interface import Kernels


def kernels_for(device: torch.device) -> Kernels | None:
    """The compiled passes and updates of a kind of device, None where there are none."""
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


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors that start back: dE/dh at the steps that are read, windows in which they end, whether signals are kept."""

    cotangent: Tensor
    window: Tensor | None
    kept: bool


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
        self.exact_gradient = cell.exact_gradient

    @property
    def source(self) -> str:  # type: ignore[override]
        """The cell's own."""
        return self.plain.source

    def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
        """The cell's own."""
        return self.plain.shapes(n_hidden)

    def initial(self, generator: Generator, n_hidden: int) -> dict[str, Tensor]:
        """The cell's own."""
        return self.plain.initial(generator, n_hidden)

    def fixed(self, generator: Generator, n_hidden: int, leak: Leak) -> dict[str, Tensor]:
        """The cell's own."""
        return self.plain.fixed(generator, n_hidden, leak)

    def for_length(self, longest: int) -> Cell:
        """The fused form of the cell's own."""
        return type(self)(self.plain.for_length(longest))

    def at_step(self, weights: Weights, t: int, length: int) -> Weights:
        """The cell's own."""
        return self.plain.at_step(weights, t, length)

    def matrices(self, weights: Weights, length: int) -> Tensor | None:
        """The cell's own."""
        return self.plain.matrices(weights, length)

    def start(self, like: Tensor) -> State:
        """The cell's own."""
        return self.plain.start(like)

    def step(self, weights: Weights, state: State, drive: tuple[Tensor, ...], mask: Tensor | None) -> State:
        """The cell's own."""
        return self.plain.step(weights, state, drive, mask)

    def variance(self, tape: Tape, n_read: int) -> Tensor:
        """The cell's own."""
        return self.plain.variance(tape, n_read)

    def state_flow(self, weights: Weights, tape: Tape, flow: Flow, cotangent: Tensor) -> Tensor | None:
        """The cell's own."""
        return self.plain.state_flow(weights, tape, flow, cotangent)

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
        return self._keeping(drive.grid[1], kernels, weights, drive, mask)

    @torch.no_grad()
    def read(self, weights: Weights, drive: Drive, mask: Tensor | None, n_read: int) -> Tensor:
        """See ``Cell.read``."""
        device, n_steps = drive.parts[0].device, drive.grid[1]
        kernels = kernels_for(device)
        if kernels is None:
            return self.plain.read(weights, drive, mask, n_read)
        n_kept = self.n_kept(n_steps, n_read, device)
        tape = self._keeping(n_kept, kernels, weights, drive, mask)
        return tape.states[:, torch.arange(n_steps - n_read, n_steps, device=device) % n_kept]

    def n_kept(self, n_steps: int, n_read: int, device: torch.device) -> int:
        """Where there are kernels, those that are read and one more, because a step needs the one before."""
        return n_steps if kernels_for(device) is None else min(n_steps, n_read + 1)

    @torch.no_grad()
    def backward(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Flow:
        """See ``Cell.backward``."""
        kernels = kernels_for(cotangent.device)
        if kernels is None:
            return self.plain.backward(weights, tape, mask, cotangent, window)
        errors = Errors(cotangent=cotangent.contiguous(), window=window, kept=True)
        return self._backward(kernels, _held(weights), tape, _like(mask, cotangent), errors)

    @torch.no_grad()
    def gradients(
        self, weights: Weights, tape: Tape, mask: Tensor | None, cotangent: Tensor, window: Tensor | None = None
    ) -> Gradients:
        """See ``Cell.gradients``."""
        kernels = kernels_for(cotangent.device)
        if kernels is None:
            return self.plain.gradients(weights, tape, mask, cotangent, window)
        # Without codes the error signals are the gradient by the drive.
        errors = Errors(cotangent=cotangent.contiguous(), window=window, kept=tape.drive.codes is None)
        return self._backward(kernels, _held(weights), tape, _like(mask, cotangent), errors)

    def _keeping(self, n_kept: int, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None) -> Tape:
        """The tape of a forward pass with room for as many steps."""
        held = Drive(parts=tuple(part.contiguous() for part in drive.parts), codes=drive.codes)
        (n_members, _, n_batch), n_hidden = drive.grid, drive.parts[0].shape[-1] // self.n_gates
        states = drive.parts[0].new_empty(n_members, n_kept, n_batch, n_hidden)
        return self._forward(kernels, _held(weights), held, _like(mask, states), states)

    @abstractmethod
    def _forward(
        self, kernels: Kernels, weights: Weights, drive: Drive, mask: Tensor | None, states: Tensor
    ) -> Tape: ...

    @abstractmethod
    def _backward(self, kernels: Kernels, weights: Weights, tape: Tape, mask: Tensor | None, errors: Errors) -> Flow:
        """The flow; its error signals are empty unless they are to be kept."""


def signals(like: Tensor, kept: bool) -> Tensor:
    """Room for error signals, or the empty tensor that stands for signals nobody wants."""
    return torch.empty_like(like, memory_format=torch.contiguous_format) if kept else like.new_empty(0, 0, 0, 0)


def tables(drive: Drive) -> tuple[Tensor, ...]:
    """Room for gradients by the drive's parts; empty where these are the error signals."""
    if drive.codes is None:
        return tuple(part.new_empty(0, 0, 0) for part in drive.parts)
    return tuple(torch.empty_like(part) for part in drive.parts)


def _held(weights: Weights) -> Weights:
    """The weights as the kernels need them: detached, without gaps."""
    return {name: weight.detach().contiguous() for name, weight in weights.items()}


def _like(mask: Tensor | None, other: Tensor) -> Tensor | None:
    return None if mask is None else mask.to(other.dtype).contiguous()
