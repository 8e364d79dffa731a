"""Running a cell through a sequence: the fused pass that trains, and the reference loop that it is tested against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.cell import Cell, Weights
from models.drive import Drive


def unroll(cell: Cell, weights: Weights, drive: Drive, mask: Tensor | None, n_read: int) -> Tensor:
    """Hidden states at the last ``n_read`` steps, from the zero state, with a backward pass written by hand.

    Args:
        cell: what runs.
        weights: its recurrent parameters, leading axis K.
        drive: the input's part of the net input.
        mask: see ``Cell.step``; not differentiated.
        n_read: number R of final steps, 1 <= R <= T.

    Returns:
        ``[K, R, B, H]``, once differentiable in the weights and the drive.

    Raises:
        ValueError: n_read is out of range.
    """
    length = drive.grid[1]
    if not 1 <= n_read <= length:
        raise ValueError(f"1 <= n_read <= T must hold, but got n_read={n_read}, T={length}")
    run = _Run(cell=cell, names=tuple(weights), n_parts=len(drive.parts), codes=drive.codes, mask=mask, n_read=n_read)
    read: Tensor = _Unroll.apply(run, *drive.parts, *weights.values())  # type: ignore[no-untyped-call]
    return read


def unroll_reference(cell: Cell, weights: Weights, drive: Drive, mask: Tensor | None, n_read: int) -> Tensor:
    """The same by ``cell.step`` and autograd, a loop over time; slow and plain."""
    parts = drive.dense()
    state = cell.start(parts[0][:, 0, :, : parts[0].shape[-1] // cell.n_gates])
    hidden = []
    length = parts[0].shape[1]
    for t in range(length):
        # Fast dropout's p_keep has no time axis.
        mask_t = mask[:, t] if mask is not None and mask.ndim == 4 else mask
        state = cell.step(cell.at_step(weights, t, length), state, tuple(part[:, t] for part in parts), mask_t)
        hidden.append(state[0])
    return torch.stack(hidden[-n_read:], dim=1)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What autograd does not differentiate."""

    cell: Cell
    names: tuple[str, ...]
    n_parts: int
    codes: Tensor | None
    mask: Tensor | None
    n_read: int


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, *tensors: Tensor) -> Tensor:
        drive, weights = Drive(parts=tensors[: run.n_parts], codes=run.codes), tensors[run.n_parts :]
        tape = run.cell.forward(dict(zip(run.names, weights, strict=True)), drive, run.mask)
        ctx.run, ctx.tape = run, tape
        ctx.save_for_backward(*weights)
        # A copy, because the caller may change what it reads and the tape must stay as it was.
        return tape.states[:, -run.n_read :].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (cotangent,) = gradients
        weights = dict(zip(ctx.run.names, ctx.saved_tensors, strict=True))
        found = ctx.run.cell.gradients(weights, ctx.tape, ctx.run.mask, cotangent)
        return None, *found.drive, *(found.weights[name] for name in ctx.run.names)
