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



def launch(kernel: Any, states: Tensor, widest: int, *arguments: Tensor | int, **options: int) -> None:
    """Run a kernel with one program for each member and tile of rows of ``[K, T, B, H]``."""
    n_members, n_steps, n_batch, n_hidden = states.shape
    sizes = tiles(n_hidden, widest, states.element_size())
    grid = (n_members, triton.cdiv(n_batch, ROWS))
    kernel[grid](*arguments, n_steps, n_batch, **sizes, **options, num_warps=n_warps(widest, sizes["WIDTH"]))


def tiles(n_hidden: int, widest: int, n_bytes: int) -> dict[str, int]:
    """Sizes that a kernel is compiled for: units, and how they are parted into tiles.

    ``n_bytes`` are those of a number: tiles of double precision are half as wide.
    """
    width = min(widest * 4 // n_bytes, max(16, triton.next_power_of_2(n_hidden)))
    return {"HIDDEN": n_hidden, "ROWS": ROWS, "WIDTH": width, "BLOCKS": triton.cdiv(n_hidden, width)}


def n_warps(widest: int, width: int) -> int:
    """Groups of 32 threads in a program: enough that the weights fit into its registers, or else few that wait."""
    return 4 if widest == WIDE and width <= SMALL else 8


def selection(drive: Drive) -> tuple[tuple[Tensor | int, ...], bool]:
    """What a kernel needs to find a step's drive: the table's parts, codes, how far those of members are apart, and
    the number of a table's rows; and whether there are codes.
    """
    if drive.codes is None:
        return (*drive.parts, drive.parts[0], 0, 0), False
    codes = drive.codes.contiguous()
    return (*drive.parts, codes, codes[0].numel() if codes.ndim == 3 else 0, drive.parts[0].shape[1]), True


def or_any(given: Tensor | None, other: Tensor) -> Tensor:
    """A mask or windows, or what a kernel that is compiled without them will not read."""
    return other if given is None else given


def room(signals: Tensor, states: Tensor, n_gates: int, window: Tensor | None) -> Tensor:
    """The error signals that the caller wants, or room for those it does not want; zero if not all are written."""
    found = signals if signals.numel() > 0 else states.new_empty(*states.shape[:-1], n_gates * states.shape[-1])
    return found if window is None else found.zero_()
