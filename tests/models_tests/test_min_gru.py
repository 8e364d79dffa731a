"""The minimal gated recurrent unit against a loop of the paper's equations and against its parallel form."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Generator, Tensor
from torch.autograd import grad

from models import CELLS
from models.cell import Cell
from models.drive import Drive
from models.fused import fuse
from models.unroll import unroll

assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
"""Two orders of summation in float64: 1e-16 per operation, a few thousand of them."""

LENGTH, N_SEQUENCES, N_IN, N_HIDDEN, N_READ = 12, 4, 5, 6, 3
CELL = CELLS["min_gru"]
every_pass = pytest.mark.parametrize("cell", [CELL, fuse(CELL)], ids=["plain", "fused"])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


@every_pass
def test_unroll_equals_a_loop_of_the_papers_equations(cell: Cell) -> None:
    x, cotangent = normal(LENGTH, N_SEQUENCES, N_IN, seed=0), normal(N_READ, N_SEQUENCES, N_HIDDEN, seed=1)
    w_z, w_h = (normal(N_IN, N_HIDDEN, seed=seed).requires_grad_() for seed in (2, 3))
    h, states = torch.zeros(N_SEQUENCES, N_HIDDEN, dtype=torch.float64), []
    for t in range(LENGTH):
        z = 1 / (1 + torch.exp(-(x[t] @ w_z)))
        h = (1 - z) * h + z * (x[t] @ w_h)
        states.append(h)
    expected = torch.stack(states[-N_READ:])
    # Our gate is the paper's 1 - z.
    drive = torch.cat((-x @ w_z, x @ w_h), dim=-1)
    read = unroll(cell, {}, Drive(parts=(drive[None],)), None, N_READ)[0]
    assert_close(read, expected)
    assert_close(grad(read, (w_z, w_h), cotangent), grad(expected, (w_z, w_h), cotangent))


@every_pass
def test_states_are_those_of_the_parallel_form(cell: Cell) -> None:
    drive = normal(2, LENGTH, N_SEQUENCES, 2 * N_HIDDEN, seed=4)
    kept, candidate = drive.chunk(2, dim=-1)
    kept = torch.sigmoid(kept)
    # Products of 12 gates stay above 1e-12, so that the quotients keep their digits.
    products = kept.cumprod(dim=1)
    expected = products * ((1 - kept) * candidate / products).cumsum(dim=1)
    assert_close(cell.forward({}, Drive(parts=(drive,)), None).states, expected)


@every_pass
def test_an_open_gate_holds_what_was_written_once(cell: Cell) -> None:
    drive = torch.full((1, 100, 1, 2), 50.0, dtype=torch.float64)
    drive[:, 0, :, 0], drive[:, 0, :, 1] = -50.0, 0.7
    states = cell.forward({}, Drive(parts=(drive,)), None).states.flatten()
    # The gate is off by 2e-22 a step, times a candidate of 50.
    assert_close(states, torch.full((100,), 0.7, dtype=torch.float64))
