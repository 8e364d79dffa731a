"""What the statistics have to know of a cell beyond what it does: the names of its gates, and its largest slope."""

from __future__ import annotations

from models.cell import Cell
from models.elman import Elman
from models.fused import Fused
from models.gru import Gru
from models.lstm import Lstm


def gate_names(cell: Cell) -> tuple[str, ...]:
    """Names of the blocks of a gated cell's net input, in their order; empty for a cell without gates."""
    plain = _plain(cell)
    return plain.gates if isinstance(plain, Lstm | Gru) else ()


def slope_max(cell: Cell) -> float | None:
    """f'_max of a cell whose error signals obey ``delta_t = f'(a_t) (W delta_{t+1})``; None for any other."""
    plain = _plain(cell)
    return plain.activation.slope_max if isinstance(plain, Elman) else None


def _plain(cell: Cell) -> Cell:
    return cell.plain if isinstance(cell, Fused) else cell
