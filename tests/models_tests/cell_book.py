"""What tests of every cell share: all cells, plain and compiled, with and without moments, and cases to run them on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from models import CELLS, FAST_CELLS
from models.cell import Cell, Weights
from models.drive import Drive
from models.fused import fuse
from models.fusion import Fused
from models.initial import Leak

assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-11)
"""Two orders of summation in float64: 1e-16 per operation, a few thousand of them, entries up to about 1e2."""

LONGEST = 60
"""Longest sequence that a cell meets here."""


def plain(cell: Cell) -> Cell:
    """The cell without compiled passes, if it is entered with them."""
    return cell.plain if isinstance(cell, Fused) else cell


PLAIN = {name: plain(cell).for_length(LONGEST) for name, cell in CELLS.items()}
FAST = {name: plain(cell).for_length(LONGEST) for name, cell in FAST_CELLS.items()}
EVERY = [pytest.param(cell, False, id=name) for name, cell in PLAIN.items()]
EVERY += [pytest.param(cell, True, id=f"{name}-fast") for name, cell in FAST.items()]
EVERY += [pytest.param(fuse(cell.for_length(LONGEST)), False, id=f"{name}-fused") for name, cell in CELLS.items()]
EVERY += [
    pytest.param(fuse(cell.for_length(LONGEST)), True, id=f"{name}-fast-fused") for name, cell in FAST_CELLS.items()
]
every_cell = pytest.mark.parametrize(("cell", "fast"), EVERY)

LEAK = Leak(low=0.02, high=1.0, share=0.7)
"""Slow units, fast ones, and some that do not leak."""

N_SEQUENCES, N_ROWS = 4, 3
"""Sequences of a batch, and rows of a drive's table."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something to run a cell on."""

    weights: Weights
    drive: Drive
    mask: Tensor | None
    cotangent: Tensor

    @property
    def n_read(self) -> int:
        return self.cotangent.shape[1]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return *self.drive.parts, *self.weights.values()

    def member(self, k: int) -> Case:
        return Case(
            weights={name: weight[k : k + 1].detach().requires_grad_() for name, weight in self.weights.items()},
            drive=Drive(
                parts=tuple(part[k : k + 1].detach().requires_grad_() for part in self.drive.parts),
                codes=self.drive.codes,
            ),
            mask=None if self.mask is None else self.mask[k : k + 1],
            cotangent=self.cotangent[k : k + 1],
        )


def draw(
    cell: Cell,
    fast: bool,
    *,
    n_members: int = 3,
    length: int = 7,
    n_hidden: int = 5,
    n_read: int = 3,
    masked: bool = True,
    codes: str = "none",
    seed: int = 0,
) -> Case:
    generator = Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weights = {name: (0.7 * normal(n_members, *shape)) for name, shape in cell.shapes(n_hidden).items()}
    weights |= {name: one.repeat(n_members, 1) for name, one in cell.fixed(generator, n_hidden, LEAK).items()}
    places = (length, N_SEQUENCES)
    rows = places if codes == "none" else (N_ROWS,)
    drive = [normal(n_members, *rows, cell.n_gates * n_hidden) for _ in range(1 + fast)]
    selected = None
    if codes != "none":
        shape = places if codes == "shared" else (n_members, *places)
        selected = torch.randint(N_ROWS, shape, generator=generator)
    if fast:
        drive[1] = drive[1].square() + 0.1
        p_keep = torch.linspace(0.3, 0.9, n_members, dtype=torch.float64) if masked else torch.ones(n_members)
        mask: Tensor | None = p_keep.double()[:, None, None]
    else:
        uniform = torch.rand(n_members, length, N_SEQUENCES, n_hidden, generator=generator, dtype=torch.float64)
        mask = (uniform < 0.6) / 0.6 if masked else None
    for tensor in (*weights.values(), *drive):
        tensor.requires_grad_()
    cotangent = normal(n_members, n_read, N_SEQUENCES, n_hidden)
    return Case(weights=weights, drive=Drive(parts=tuple(drive), codes=selected), mask=mask, cotangent=cotangent)
