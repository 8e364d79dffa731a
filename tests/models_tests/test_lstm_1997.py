"""The LSTM of 1997 against a loop of the paper's equations, and its carousel, on which errors stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Generator, Tensor
from torch.autograd import grad

from models import CELLS
from models.cell import Cell, Flow
from models.drive import Drive
from models.fused import fuse
from models.unroll import unroll

assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
"""Two orders of summation in float64: 1e-16 per operation, a few thousand of them."""

LENGTH, N_SEQUENCES, N_HIDDEN, N_READ = 12, 4, 6, 3
CLOSED = -50.0
"""Net input at which a logistic gate is 0 to 2e-22."""

FULL, TRUNCATED = CELLS["lstm_1997"], CELLS["lstm_1997_truncated"]
every_pass = pytest.mark.parametrize("made", [lambda cell: cell, fuse], ids=["plain", "fused"])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def f(net: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-net))


def paper(w: Tensor, drive: Tensor, *, truncated: bool) -> Tensor:
    """Section 4: y_in, y_out and s of every cell, a block of its own, from net inputs with w's blocks in, c, out."""
    to_in, to_c, to_out = (w[:, n * N_HIDDEN : (n + 1) * N_HIDDEN] for n in range(3))
    y, s, outputs = torch.zeros(N_SEQUENCES, N_HIDDEN, dtype=torch.float64), 0.0, []
    for net_in, net_c, net_out in (step.split(N_HIDDEN, dim=-1) for step in drive):
        seen = y.detach() if truncated else y
        y_in, y_out = f(net_in + seen @ to_in), f(net_out + seen @ to_out)
        s = s + y_in * (4 * f(net_c + seen @ to_c) - 2)
        y = y_out * (2 * f(s) - 1)
        outputs.append(y)
    return torch.stack(outputs[-N_READ:])


@every_pass
@pytest.mark.parametrize("truncated", [False, True])
def test_unroll_equals_a_loop_of_the_papers_equations(made: Callable[[Cell], Cell], truncated: bool) -> None:
    w = 0.8 * normal(N_HIDDEN, 3 * N_HIDDEN, seed=0)
    w, drive = w.requires_grad_(), (2 * normal(LENGTH, N_SEQUENCES, 3 * N_HIDDEN, seed=1)).requires_grad_()
    cotangent = normal(N_READ, N_SEQUENCES, N_HIDDEN, seed=2)
    expected = paper(w, drive, truncated=truncated)
    cell = made(TRUNCATED if truncated else FULL)
    read = unroll(cell, {"recurrent": w[None]}, Drive(parts=(drive[None],)), None, N_READ)[0]
    assert_close(read, expected)
    assert_close(grad(read, (w, drive), cotangent), grad(expected, (w, drive), cotangent))


def flow_of(cell: Cell, drive: Tensor) -> Flow:
    weights = {"recurrent": normal(1, N_HIDDEN, 3 * N_HIDDEN, seed=3)}
    tape = cell.forward(weights, Drive(parts=(drive[None],)), None)
    return cell.backward(weights, tape, None, normal(1, 1, N_SEQUENCES, N_HIDDEN, seed=4))


@every_pass
def test_truncated_carousel_holds_the_error_whatever_the_gates(made: Callable[[Cell], Cell]) -> None:
    drive = 2 * normal(200, N_SEQUENCES, 3 * N_HIDDEN, seed=5)
    carousel = flow_of(made(TRUNCATED), drive).carousel
    assert carousel is not None
    assert carousel.abs().max() > 0.1
    # Not even rounding: nothing is added before the last step.
    assert torch.equal(carousel, carousel[:, -1:].expand_as(carousel))
    full = flow_of(made(FULL), drive).carousel
    assert full is not None
    # The full gradient takes other ways besides.
    assert not torch.allclose(full[:, 0], full[:, -1], rtol=0.1)


@every_pass
def test_full_carousel_holds_the_error_while_its_gates_are_closed(made: Callable[[Cell], Cell]) -> None:
    gates = normal(40, N_SEQUENCES, 3, N_HIDDEN, seed=6)
    gates[1:, :, 0], gates[:-1, :, 2] = CLOSED, CLOSED
    carousel = flow_of(made(FULL), gates.flatten(2)).carousel
    assert carousel is not None
    assert carousel[:, -2].abs().min() > 0
    # The last step reads through an open gate; before it the gates are off by 2e-22.
    torch.testing.assert_close(carousel[:, 0], carousel[:, -2], rtol=1e-12, atol=0)


@every_pass
def test_cells_add_up_what_their_input_gates_let_in(made: Callable[[Cell], Cell]) -> None:
    """Open gates, no recurrence, and g near its bound of 2: c counts two a step, and h is the squashed count."""
    drive = torch.full((LENGTH, 1, 3), 50.0, dtype=torch.float64)
    weights = {"recurrent": torch.zeros(1, 1, 3, dtype=torch.float64)}
    states = made(FULL).forward(weights, Drive(parts=(drive[None],)), None).states.flatten()
    counts = torch.arange(1, LENGTH + 1, dtype=torch.float64)
    assert_close(states, 2 / (1 + torch.exp(-2 * counts)) - 1)
