"""Running a cell through a sequence: the fused pass that trains, and the reference loop that it is tested against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.cell import Cell, Drive, Weights


def unroll(cell: Cell, weights: Weights, drive: Drive, mask: Tensor | None, n_read: int) -> Tensor:
    """Hidden states at the last ``n_read`` steps, from the zero state, with a backward pass written by hand.

    Args:
        cell: what runs.
        weights: its recurrent parameters, leading axis K.
        drive: the input's part of the net input, each part ``[K, T, B, G*H]``.
        mask: see ``Cell.step``; not differentiated.
        n_read: number R of final steps, 1 <= R <= T.

    Returns:
        ``[K, R, B, H]``, once differentiable in the weights and the drive.
    """
    names = tuple(weights)
    read: Tensor = _Unroll.apply(cell, names, len(drive), mask, n_read, *drive, *weights.values())
    return read


def unroll_reference(cell: Cell, weights: Weights, drive: Drive, mask: Tensor | None, n_read: int) -> Tensor:
    """The same by ``cell.step`` and autograd, a loop over time; slow and plain."""
    state = cell.start(tuple(part[:, 0] for part in drive))
    hidden = []
    for t in range(drive[0].shape[1]):
        # Fast dropout's p_keep has no time axis.
        mask_t = mask[:, t] if mask is not None and mask.ndim == 4 else mask
        state = cell.step(weights, state, tuple(part[:, t] for part in drive), mask_t)
        hidden.append(state[0])
    return torch.stack(hidden[-n_read:], dim=1)


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell: Cell, names: tuple[str, ...], n_parts: int, mask: Tensor | None, n_read: int, *tensors: Tensor
    ) -> Tensor:
        drive, weights = tensors[:n_parts], dict(zip(names, tensors[n_parts:], strict=True))
        tape = cell.forward(weights, drive, mask)
        ctx.cell, ctx.names, ctx.tape, ctx.mask = cell, names, tape, mask
        ctx.save_for_backward(*tensors[n_parts:])
        return tape.states[:, -n_read:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (cotangent,) = gradients
        weights = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        flow = ctx.cell.backward(weights, ctx.tape, ctx.mask, cotangent)
        return None, None, None, None, None, *flow.drive, *(flow.weights[name] for name in ctx.names)
