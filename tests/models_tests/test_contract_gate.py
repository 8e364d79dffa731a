"""What every cell's gates must hold: which nonlinearities they are, and how steep."""

from __future__ import annotations

import pytest
import torch
from models_tests.cell_book import assert_close, draw
from torch import Tensor

from models import CELLS
from models.cell import Cell
from models.drive import Drive


def squash(net: Tensor) -> Tensor:
    return 4 / (1 + torch.exp(-net)) - 2


BLOCKS = {
    "elman_tanh": (torch.tanh,),
    "elman_logistic": (torch.sigmoid,),
    "elman_rectifier": (torch.relu,),
    "untied_tanh": (torch.tanh,),
    "untied_logistic": (torch.sigmoid,),
    "untied_rectifier": (torch.relu,),
    "orthogonal_tanh": (torch.tanh,),
    "leaky_tanh": (torch.tanh,),
    "leaky_logistic": (torch.sigmoid,),
    "leaky_rectifier": (torch.relu,),
    "state_space": (torch.tanh,),
    "gru": (torch.sigmoid, torch.sigmoid, torch.tanh),
    "lstm": (torch.sigmoid, torch.sigmoid, torch.tanh, torch.sigmoid),
    "lstm_1997": (torch.sigmoid, squash, torch.sigmoid),
    "lstm_1997_truncated": (torch.sigmoid, squash, torch.sigmoid),
    "min_gru": (torch.sigmoid, torch.clone),
}
"""Nonlinearity of every block of net inputs, for cells whose formulas somebody has read."""


@pytest.mark.parametrize("name", BLOCKS)
def test_gates_are_the_nonlinearities_of_net_inputs(name: str) -> None:
    cell, functions = CELLS[name], BLOCKS[name]
    case = draw(cell, False, length=1, n_read=1, masked=False)
    blocks = case.drive.parts[0].chunk(len(functions), dim=-1)
    expected = torch.cat([function(block) for function, block in zip(functions, blocks, strict=True)], dim=-1)
    assert_close(silent_gates(cell, case.drive.parts[0]).flatten(-2), expected)


def silent_gates(cell: Cell, net: Tensor) -> Tensor:
    """Values ``[K, T, B, G, H]`` of units that hear nothing but the drive."""
    shapes = cell.shapes(net.shape[-1] // cell.n_gates)
    silent = {name: net.new_zeros(len(net), *shape) for name, shape in shapes.items()}
    return cell.forward(silent, Drive(parts=(net,)), None).gates


@pytest.mark.parametrize("cell", [pytest.param(cell, id=name) for name, cell in CELLS.items()])
def test_relative_slope_is_the_slope_over_its_maximum(cell: Cell) -> None:
    # Net inputs on both sides of 0, where nonlinearities are steepest, but not 0 itself, where a rectifier has a kink.
    net = torch.linspace(-8, 8, 4000, dtype=torch.float64)[None, None, :, None].repeat(1, 1, 1, cell.n_gates)
    nudge = 1e-4
    slope = (silent_gates(cell, net + nudge) - silent_gates(cell, net - nudge)) / (2 * nudge)
    expected = slope / slope.amax(2, keepdim=True)
    # Differences err by the square of the nudge, and the steepest place is missed by 0.002: a relative 4e-6 at most.
    torch.testing.assert_close(cell.relative_slope(silent_gates(cell, net)), expected, rtol=0, atol=1e-5)
