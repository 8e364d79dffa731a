"""What passes for NVIDIA GPUs share: how the work is parted into programs, and room for what these write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
from torch import Tensor

from models.drive import Drive

LEAST = 16
"""Fewest rows, and fewest units, that fill a tensor core."""


@dataclass(frozen=True, kw_only=True)
class Parting:
    """How a pass is parted into programs.

    ``n_units`` is the most units whose recurrent weights a program keeps on the chip, as one tile. Where one tile of up
    to 64 units does, ``n_rows`` are the most rows of the batch that a program works on, and ``n_warps`` the groups of
    32 threads that it is.
    """

    n_units: int
    n_rows: int
    n_warps: int

    def sizes(self, n_hidden: int, n_batch: int, n_bytes: int) -> dict[str, int]:
        """What a kernel is compiled for, for so many units and rows, and numbers of so many bytes."""
        # Tiles of double precision are half as wide.
        width = min(self.n_units * 4 // n_bytes, _filled(n_hidden))
        n_blocks = triton.cdiv(n_hidden, width)
        # What works on wide tiles, or on several, needs the registers of more threads.
        n_rows, n_warps = (self.n_rows, self.n_warps) if n_blocks == 1 and width <= 64 else (LEAST, 8)
        sizes = {"HIDDEN": n_hidden, "ROWS": min(n_rows, _filled(n_batch)), "WIDTH": width, "BLOCKS": n_blocks}
        return sizes | {"num_warps": n_warps}


def launch(kernel: Any, parting: Parting, states: Tensor, *arguments: Tensor | int, **options: int) -> None:
    """Run a kernel with one program for each member and tile of rows of the tape's states ``[K, S, B, H]``."""
    n_members, n_kept, n_batch, n_hidden = states.shape
    sizes = parting.sizes(n_hidden, n_batch, states.element_size())
    kernel[(n_members, triton.cdiv(n_batch, sizes["ROWS"]))](*arguments, n_kept, n_batch, **sizes, **options)


def launch_on(drive: Drive, kernel: Any, parting: Parting, states: Tensor, *rest: Tensor | int, **options: int) -> None:
    """``launch`` a kernel whose first arguments say where it finds the drive of a step.

    They are the table's parts, codes, how far those of members are apart, the number of a table's rows, and that of the
    steps, of which the tape may keep the last only.
    """
    table, gathered = drive.parts[0], drive.codes is not None
    codes = table if drive.codes is None else drive.codes.contiguous()
    apart = codes[0].numel() if gathered and codes.ndim == 3 else 0
    where = (codes, apart, table.shape[1], drive.grid[1])
    launch(kernel, parting, states, *drive.parts, *where, *rest, GATHERED=gathered, **options)


def turned(matrix: Tensor) -> Tensor:
    """The transposed matrix as it lies in memory when tensor cores can take it as the left factor without detours."""
    return matrix.mT.contiguous()


def or_any(given: Tensor | None, other: Tensor) -> Tensor:
    """A mask or windows, or what a kernel that is compiled without them will not read."""
    return other if given is None else given


def room(signals: Tensor, states: Tensor, n_gates: int, window: Tensor | None) -> Tensor:
    """The error signals that the caller wants, or room for those it does not want; zero if not all are written."""
    found = signals if signals.numel() > 0 else states.new_empty(*states.shape[:-1], n_gates * states.shape[-1])
    return found if window is None else found.zero_()


def _filled(n: int) -> int:
    return max(LEAST, int(triton.next_power_of_2(n)))
