"""What passes for NVIDIA GPUs share: how the work is parted into programs, and room for what these write."""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from models.drive import Drive

ROWS = 16
"""Rows of the batch that one program works on: the least that fill a tensor core."""

SMALL, WIDE = 64, 128
"""Most units whose recurrent weights stay on the chip as one tile, for several matrices and for a single one."""

N_WARPS = 8
"""Groups of 32 threads in a program: with half as many the tiles of gated cells do not fit into registers."""


def launch(kernel: Any, states: Tensor, widest: int, *arguments: Tensor | int, **options: int) -> None:
    """Run a kernel with one program for each member and tile of rows of ``[K, T, B, H]``."""
    n_members, n_steps, n_batch, n_hidden = states.shape
    sizes = tiles(n_hidden, widest)
    kernel[(n_members, triton.cdiv(n_batch, ROWS))](*arguments, n_steps, n_batch, **sizes, **options, num_warps=N_WARPS)


def tiles(n_hidden: int, widest: int) -> dict[str, int]:
    """Sizes that a kernel is compiled for: units, and how they are parted into tiles."""
    width = min(widest, max(16, triton.next_power_of_2(n_hidden)))
    return {"HIDDEN": n_hidden, "ROWS": ROWS, "WIDTH": width, "BLOCKS": triton.cdiv(n_hidden, width)}


def or_any(given: Tensor | None, other: Tensor) -> Tensor:
    """A mask or windows, or what a kernel that is compiled without them will not read."""
    return other if given is None else given


def room(signals: Tensor, states: Tensor, n_gates: int, window: Tensor | None) -> Tensor:
    """The error signals that the caller wants, or room for those it does not want; zero if not all are written."""
    found = signals if signals.numel() > 0 else states.new_empty(*states.shape[:-1], n_gates * states.shape[-1])
    return found if window is None else found.zero_()


def collect(codes: Tensor | None, signals: tuple[Tensor, ...], tables: tuple[Tensor, ...]) -> None:
    """Add the signals up by the row of the drive's table."""
    if codes is not None:
        for table, summed in zip(tables, Drive(parts=tables, codes=codes).collect(signals), strict=True):
            table.copy_(summed)
