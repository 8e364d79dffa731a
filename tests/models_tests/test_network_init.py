"""What a network starts from: shapes, scales, biases, and streams that depend on their generator alone."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Generator

from models import CELLS
from models.cell import Cell
from models.dropout import Dropout
from models.initial import Leak
from models.network import Network

assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
"""Rounding in float64."""

N_HIDDEN = 6

every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def network(cell: Cell) -> Network:
    return Network(cell=cell.for_length(3), dropout=Dropout.NONE, n_in=5, n_hidden=N_HIDDEN, n_out=2)


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


@pytest.mark.parametrize("cell", [cell for cell in CELLS.values() if "recurrent" in cell.shapes(1)])
def test_init_scales_every_recurrent_block(cell: Cell) -> None:
    weights = network(cell).init(seeded(0), init="orthogonal", init_scale=1.7, input_scale=1.0, forget_bias=1.0)
    blocks = weights["recurrent"].unflatten(-1, (cell.n_gates, N_HIDDEN)).movedim(-2, 0).flatten(0, -3)
    assert_close(torch.linalg.svdvals(blocks), torch.full(blocks.shape[:2], 1.7, dtype=torch.float64))
    assert len({tuple(block.flatten().tolist()) for block in blocks}) == len(blocks)


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


def test_gates_of_memory_are_named_where_a_cell_has_them() -> None:
    known = {
        "elman_tanh": (None, None),
        "lstm": (1, 0),
        "gru": (1, None),
        "lstm_1997": (None, 0),
        "lstm_1997_truncated": (None, 0),
        "min_gru": (0, None),
    }
    assert {name: (CELLS[name].forget_gate, CELLS[name].input_gate) for name in known} == known


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_forget_gate_keeps_the_state_when_it_is_open(name: str) -> None:
    """Torch's cell with the same open gate, and all other parameters zero, returns the state that it is given."""
    module = (torch.nn.LSTMCell if name == "lstm" else torch.nn.GRUCell)(5, N_HIDDEN, dtype=torch.float64)
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    weights = network(CELLS[name]).init(
        seeded(0), init="gaussian", init_scale=0.0, input_scale=0.0, forget_bias=50.0, chrono_length=None
    )
    module.bias_ih.data = weights["bias"]
    before = torch.randn(3, N_HIDDEN, dtype=torch.float64, generator=seeded(1))
    inputs = torch.randn(3, 5, dtype=torch.float64, generator=seeded(2))
    with torch.no_grad():
        after = module(inputs, (before, before))[1] if name == "lstm" else module(inputs, before)
    assert_close(after, before)


@every_cell
def test_init_spreads_the_biases_of_a_chrono_initialisation(cell: Cell) -> None:
    constant, spread = (
        network(cell).init(
            seeded(0), init="orthogonal", init_scale=1.0, input_scale=1.0, forget_bias=2.5, chrono_length=length
        )
        for length in (None, 50.0)
    )
    for name in constant.keys() - {"bias"}:
        assert torch.equal(constant[name], spread[name])
    biases = spread["bias"].view(cell.n_gates, N_HIDDEN)
    expected = torch.zeros_like(biases)
    if cell.forget_gate is not None:
        expected[cell.forget_gate] = biases[cell.forget_gate]
        assert len(set(biases[cell.forget_gate].tolist())) == N_HIDDEN
        assert (biases[cell.forget_gate] >= 0).all()
        assert (biases[cell.forget_gate] <= math.log(49)).all()
    if cell.input_gate is not None:
        expected[cell.input_gate] = -biases[cell.forget_gate or 0]
    assert torch.equal(biases, expected)


@pytest.mark.parametrize(("init", "deviation"), [("pascanu_sigmoid", 0.01), ("basic_tanh", 0.1), ("smart_tanh", 0.01)])
def test_init_of_pascanu_spreads_input_and_readout_alike_whatever_their_sizes(init: str, deviation: float) -> None:
    for n_in, input_scale in ((7, 1.0), (40, 2.0)):
        shape = Network(cell=CELLS["elman_tanh"], dropout=Dropout.NONE, n_in=n_in, n_hidden=100, n_out=60)
        weights = shape.init(seeded(n_in), init=init, init_scale=1.5, input_scale=input_scale, forget_bias=1.0)
        for name, expected in (("input", input_scale * deviation), ("readout", deviation)):
            entries = weights[name].flatten()
            # Six standard errors of a standard deviation, s / sqrt(2 n).
            assert float(entries.std()) == pytest.approx(expected, abs=6 * expected / (2 * len(entries)) ** 0.5)
        assert not weights["bias"].any()
        assert not weights["readout_bias"].any()
        if init == "smart_tanh":
            assert float(torch.linalg.eigvals(weights["recurrent"]).abs().max()) == pytest.approx(1.5 * 0.95, abs=1e-11)
        else:
            spread = float(weights["recurrent"].std())
            assert spread == pytest.approx(1.5 * deviation, abs=6 * 1.5 * deviation / (2 * 100**2) ** 0.5)


@pytest.mark.parametrize("name", ["leaky_tanh", "leaky_rectifier"])
def test_init_draws_the_rates_of_leaky_units_from_their_range(name: str) -> None:
    shape = Network(cell=CELLS[name], dropout=Dropout.NONE, n_in=5, n_hidden=400, n_out=2)
    weights = shape.init(
        seeded(0),
        init="smart_tanh",
        init_scale=1.0,
        input_scale=1.0,
        forget_bias=1.0,
        leak=Leak(low=0.02, high=0.2, share=0.25),
    )
    rates = 1 - weights["retention"][:100]
    assert not weights["retention"][100:].any()
    # Ends and mean of 100 uniform numbers: an end is missed by 0.009 with probability e^-5, and the mean's standard
    # error is 0.18 / sqrt(1200) = 0.005.
    assert 0.02 <= float(rates.min()) < 0.029
    assert 0.191 < float(rates.max()) <= 0.2
    assert float(rates.mean()) == pytest.approx(0.11, abs=0.02)
    ordinary = Network(cell=CELLS["elman_tanh"], dropout=Dropout.NONE, n_in=5, n_hidden=400, n_out=2).init(
        seeded(0), init="smart_tanh", init_scale=1.0, input_scale=1.0, forget_bias=1.0
    )
    assert all(torch.equal(weights[key], ordinary[key]) for key in ordinary)
