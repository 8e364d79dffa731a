"""Dropout of outputs, and masks that hold for a whole sequence: against masks that the tests make themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models_tests.network_book import (
    LENGTH,
    N_HIDDEN,
    N_IN,
    N_MEMBERS,
    N_OUT,
    N_READ,
    N_SEQUENCES,
    assert_close,
    draw_inputs,
    draw_noise,
    draw_weights,
    every_batch,
    every_input,
    linear_network,
    linear_weights,
    network,
    normal,
    seeded,
)
from torch import Tensor
from torch.autograd import grad
from torch.nn.functional import one_hot

from models import CELLS, FAST_CELLS
from models.cell import Cell
from models.dropout import Dropout, Keep, Noise

RATES = torch.tensor([0.3, 0.6, 1.0], dtype=torch.float64)
HELD = torch.tensor([True, False, True])

some_cells = pytest.mark.parametrize("cell", [CELLS["elman_rectifier"], CELLS["lstm"], CELLS["min_gru"]])


def keep(held: Tensor | None = HELD) -> Keep:
    return Keep(inputs=RATES, recurrent=RATES.flip(0), outputs=RATES.roll(1), held=held)


def noise_of(coded: bool, own: bool) -> Noise:
    """Numbers for all that can be dropped."""
    axes = (N_MEMBERS,) if own else ()

    def uniform(*shape: int, seed: int) -> Tensor:
        return torch.rand(*axes, *shape, generator=seeded(seed), dtype=torch.float64)

    return replace(
        draw_noise(coded, own),
        outputs=uniform(N_READ, N_SEQUENCES, N_HIDDEN, seed=50),
        symbols=uniform(N_SEQUENCES, N_IN, seed=51) if coded else None,
    )


@some_cells
@every_input
@every_batch
def test_gradients_are_autograds_when_outputs_are_dropped_and_masks_are_held(
    cell: Cell, coded: bool, own: bool
) -> None:
    shape = network(cell, Dropout.DROPOUT)
    weights, inputs, noise = draw_weights(shape), draw_inputs(coded, own), noise_of(coded, own)
    target = normal(N_MEMBERS, N_READ, N_SEQUENCES, N_OUT, seed=40)
    output = shape.output(weights, inputs, keep=keep(), noise=noise, n_read=N_READ)
    expected = dict(zip(weights, grad((output - target).square().sum(), tuple(weights.values())), strict=True))
    actual = shape.gradients(weights, inputs, keep=keep(), noise=noise, n_read=N_READ, slope=lambda y: 2 * (y - target))
    for name, gradient in expected.items():
        assert_close(actual[name], gradient)


@some_cells
@every_batch
def test_held_masks_are_those_of_the_first_step_at_every_step(cell: Cell, own: bool) -> None:
    shape = network(cell, Dropout.DROPOUT)
    weights, inputs, noise = draw_weights(shape), draw_inputs(False, own), noise_of(False, own)
    numbers = {name: getattr(noise, name) for name in ("inputs", "recurrent", "outputs")}
    repeated = Noise(**{name: uniform[..., :1, :, :].expand_as(uniform) for name, uniform in numbers.items()})
    held = shape.output(weights, inputs, keep=keep(), noise=noise, n_read=N_READ)
    expected = shape.output(weights, inputs, keep=keep(None), noise=repeated, n_read=N_READ)
    drawn = shape.output(weights, inputs, keep=keep(None), noise=noise, n_read=N_READ)
    for k, one in enumerate(HELD.tolist()):
        assert_close(held[k], expected[k] if one else drawn[k])
    assert not torch.allclose(held[0], drawn[0])


@every_batch
def test_held_masks_drop_a_symbol_wherever_it_stands(own: bool) -> None:
    codes, noise = draw_inputs(True, own), noise_of(True, own)
    weights = linear_weights()
    member, rates = 0, Keep(inputs=RATES[:1], recurrent=torch.ones(1).double(), held=HELD[:1])
    mine = codes[member] if own else codes
    numbers = noise.of(slice(1)) if own else noise
    net = linear_network(Dropout.DROPOUT).output(
        weights, codes[:1] if own else codes, keep=rates, noise=numbers, n_read=LENGTH
    )[0]
    assert noise.symbols is not None
    symbols = noise.symbols[member] if own else noise.symbols
    # One mask per sequence over the one-hot input's units, and the network is linear.
    mask = (symbols < RATES[0]).double() / RATES[0]
    hidden = torch.zeros(N_SEQUENCES, N_HIDDEN, dtype=torch.float64)
    for t in range(LENGTH):
        on = one_hot(mine[t], N_IN).double() * mask
        hidden = on @ weights["input"][0] + weights["bias"][0] + hidden @ weights["recurrent"][0]
        assert_close(net[t], hidden)


@some_cells
@every_batch
def test_output_dropout_multiplies_the_states_that_are_read(cell: Cell, own: bool) -> None:
    shape = network(cell, Dropout.DROPOUT)
    weights, inputs, noise = draw_weights(shape), draw_inputs(True, own), noise_of(True, own)
    shown = {
        "readout": torch.eye(N_HIDDEN).double().expand(N_MEMBERS, -1, -1),
        "readout_bias": torch.zeros(1, 1).double(),
    }
    rates = replace(keep(None), outputs=None)
    states = shape.output({**weights, **shown}, inputs, keep=rates, noise=noise, n_read=N_READ)
    assert noise.outputs is not None
    p = RATES.roll(1)[:, None, None, None]
    expected = (states * (noise.outputs < p) / p) @ weights["readout"][:, None] + weights["readout_bias"][:, None, None]
    assert_close(shape.output(weights, inputs, keep=keep(None), noise=noise, n_read=N_READ), expected)


@pytest.mark.parametrize("p_keep", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("held", [True, False])
def test_output_dropout_leaves_the_mean_of_the_outputs(p_keep: float, held: bool) -> None:
    n_draws, shape = 20_000, network(CELLS["gru"], Dropout.DROPOUT)
    weights = {name: weight[:1].detach() for name, weight in draw_weights(shape).items()}
    one = normal(2, 1, N_IN, seed=3)
    sizes = (2, n_draws)
    noise = Noise(
        inputs=torch.zeros(*sizes, N_IN),
        recurrent=torch.zeros(*sizes, N_HIDDEN),
        outputs=torch.rand(*sizes, N_HIDDEN, generator=seeded(5), dtype=torch.float64),
    )
    all_kept, p = torch.ones(1).double(), torch.tensor([p_keep]).double()
    rates = Keep(inputs=all_kept, recurrent=all_kept, outputs=p, held=torch.tensor([held]))
    noisy = shape.output(weights, one.expand(2, n_draws, N_IN), keep=rates, noise=noise, n_read=2)[0]
    plain = shape.infer(weights, one, keep=rates, n_read=2)[0]
    # Six standard errors for each output at each of the two steps.
    assert ((noisy.mean(1) - plain[:, 0]).abs() < 6 * noisy.std(1) / n_draws**0.5).all()


@pytest.mark.parametrize("name", FAST_CELLS)
@every_input
def test_fast_dropout_of_outputs_reads_the_mean_times_p_keep(name: str, coded: bool) -> None:
    shape = network(FAST_CELLS[name], Dropout.FAST)
    weights, inputs = draw_weights(shape), draw_inputs(coded, False)
    rates = keep(None)
    shrunk = {**weights, "readout": RATES.roll(1)[:, None, None] * weights["readout"]}
    expected = shape.output(shrunk, inputs, keep=replace(rates, outputs=None), noise=None, n_read=N_READ)
    assert_close(shape.output(weights, inputs, keep=rates, noise=None, n_read=N_READ), expected)
    assert_close(shape.infer(weights, inputs, keep=rates, n_read=N_READ), expected.detach())
    target = normal(N_MEMBERS, N_READ, N_SEQUENCES, N_OUT, seed=40)
    gradients = grad((expected - target).square().sum(), tuple(weights.values()))
    actual = shape.gradients(weights, inputs, keep=rates, noise=None, n_read=N_READ, slope=lambda y: 2 * (y - target))
    assert_close(tuple(actual[name] for name in weights), gradients)
