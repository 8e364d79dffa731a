"""What a network starts from: shapes, scales, biases, and streams that depend on their generator alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Generator

from models import CELLS
from models.cell import Cell
from models.network import Dropout, Network

assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
"""Rounding in float64."""

N_HIDDEN = 6

every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def network(cell: Cell) -> Network:
    return Network(cell=cell, dropout=Dropout.NONE, n_in=5, n_hidden=N_HIDDEN, n_out=2)


@every_cell
def test_init_draws_the_shapes_that_are_declared(cell: Cell) -> None:
    shape = network(cell)
    weights = shape.init(seeded(0), init="gaussian", init_scale=1.0, input_scale=1.0, forget_bias=1.0)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shape.shapes()
    assert {weight.dtype for weight in weights.values()} == {torch.float64}


@every_cell
def test_init_depends_on_its_generator_alone(cell: Cell) -> None:
    shape = network(cell)
    first, second, third = (
        shape.init(seeded(seed), init="sparse", init_scale=1.0, input_scale=1.0, forget_bias=1.0) for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["input"], third["input"])


@every_cell
def test_init_scales_every_recurrent_block(cell: Cell) -> None:
    weights = network(cell).init(seeded(0), init="orthogonal", init_scale=1.7, input_scale=1.0, forget_bias=1.0)
    blocks = weights["recurrent"].chunk(cell.n_gates, dim=1)
    for block in blocks:
        assert_close(torch.linalg.svdvals(block), torch.full((N_HIDDEN,), 1.7, dtype=torch.float64))
    assert len({tuple(block.flatten().tolist()) for block in blocks}) == cell.n_gates


def test_init_draws_input_and_readout_at_their_scales() -> None:
    shape = Network(cell=CELLS["elman_tanh"], dropout=Dropout.NONE, n_in=50, n_hidden=100, n_out=60)
    weights = shape.init(seeded(0), init="identity", init_scale=1.0, input_scale=0.3, forget_bias=1.0)
    for name, deviation in (("input", 0.3 * 50**-0.5), ("readout", 0.1)):
        entries = weights[name].flatten()
        # Six standard errors of a standard deviation, s / sqrt(2 n).
        assert float(entries.std()) == pytest.approx(deviation, abs=6 * deviation / (2 * len(entries)) ** 0.5)


@every_cell
def test_init_sets_the_bias_of_the_forget_gate_alone(cell: Cell) -> None:
    weights = network(cell).init(seeded(0), init="gaussian", init_scale=1.0, input_scale=1.0, forget_bias=2.5)
    expected = torch.zeros(cell.n_gates, N_HIDDEN, dtype=torch.float64)
    if cell.forget_gate is not None:
        expected[cell.forget_gate] = 2.5
    assert torch.equal(weights["bias"], expected.flatten())
    for name in weights.keys() & {"recurrent_bias", "readout_bias"}:
        assert not weights[name].any()


def test_forget_gate_is_the_second_block_of_the_lstm_alone() -> None:
    assert {name: cell.forget_gate for name, cell in CELLS.items() if cell.forget_gate is not None} == {"lstm": 1}
