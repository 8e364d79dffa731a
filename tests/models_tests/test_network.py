"""Whole networks: input projection, dropout, inference, error flow."""

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
    keep,
    linear_network,
    linear_weights,
    network,
    normal,
    seeded,
)
from torch.autograd import grad
from torch.nn.functional import one_hot

from models import CELLS, FAST_CELLS
from models.cell import Cell
from models.dropout import Dropout, Keep, Noise
from models.fused import fuse
from models.projection import project

every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS.keys())


# Input projection.


@every_batch
@pytest.mark.parametrize("biased", [True, False])
def test_project_codes_is_the_product_with_one_hot_vectors(own: bool, biased: bool) -> None:
    codes = draw_inputs(True, own)
    matrix = normal(N_MEMBERS, N_IN, N_HIDDEN, seed=0).requires_grad_()
    bias = normal(N_MEMBERS, N_HIDDEN, seed=1).requires_grad_()
    cotangent = normal(N_MEMBERS, LENGTH, N_SEQUENCES, N_HIDDEN, seed=2)
    hot = one_hot(codes, N_IN).double()
    expected = torch.einsum("ktbi,kih->ktbh" if own else "tbi,kih->ktbh", hot, matrix)
    if biased:
        expected = expected + bias[:, None, None]
    (actual,) = project(codes, matrix, bias if biased else None).dense()
    leaves = (matrix, bias) if biased else (matrix,)
    assert_close(actual, expected)
    assert_close(grad(actual, leaves, cotangent), grad(expected, leaves, cotangent))


@every_batch
def test_project_of_dense_one_hot_vectors_equals_that_of_codes(own: bool) -> None:
    codes = draw_inputs(True, own)
    matrix, bias = normal(N_MEMBERS, N_IN, N_HIDDEN, seed=0), normal(N_MEMBERS, N_HIDDEN, seed=1)
    hot = one_hot(codes, N_IN).double()
    assert_close(project(codes, matrix, bias).dense(), project(hot, matrix, bias).dense())


# Sampled dropout.


@every_cell
@every_input
@every_batch
def test_dropout_at_rate_zero_gives_the_plain_network(cell: Cell, coded: bool, own: bool) -> None:
    shape = network(cell)
    weights, inputs = draw_weights(shape), draw_inputs(coded, own)
    plain = shape.output(weights, inputs, keep=None, noise=None, n_read=N_READ)
    noisy = replace(shape, dropout=Dropout.DROPOUT).output(
        weights, inputs, keep=keep(1, 1), noise=draw_noise(coded, own), n_read=N_READ
    )
    # A mask of ones changes no bit.
    assert torch.equal(noisy, plain)
    leaves, cotangent = tuple(weights.values()), normal(*plain.shape, seed=30)
    assert_close(grad(noisy, leaves, cotangent), grad(plain, leaves, cotangent))


@every_input
@pytest.mark.parametrize("p_keep", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("length", [1, 2])
def test_dropout_leaves_the_mean_of_the_net_input(coded: bool, p_keep: float, length: int) -> None:
    """At the first step input noise alone acts, at the second recurrent noise too."""
    n_draws = 20_000
    one = torch.randint(N_IN, (length, 1), generator=seeded(2)) if coded else normal(length, 1, N_IN, seed=3)
    inputs = one.expand(length, n_draws, *one.shape[2:])
    noise = Noise(
        inputs=torch.rand(length, n_draws, 1 if coded else N_IN, generator=seeded(4), dtype=torch.float64),
        recurrent=torch.rand(length, n_draws, N_HIDDEN, generator=seeded(5), dtype=torch.float64),
    )
    noisy = linear_network(Dropout.DROPOUT).output(
        linear_weights(), inputs, keep=keep(p_keep, p_keep, 1), noise=noise, n_read=1
    )[0, 0]
    plain = linear_network(Dropout.NONE).output(linear_weights(), one, keep=None, noise=None, n_read=1)[0, 0, 0]
    # Six standard errors for each of the six units.
    assert ((noisy.mean(0) - plain).abs() < 6 * noisy.std(0) / n_draws**0.5).all()


@pytest.mark.parametrize("p_keep", [0.2, 0.5, 0.9])
def test_input_dropout_drops_whole_symbols(p_keep: float) -> None:
    codes = torch.randint(N_IN, (1, 2000), generator=seeded(0))
    noise = Noise(
        inputs=torch.rand(1, 2000, 1, generator=seeded(1), dtype=torch.float64),
        recurrent=torch.rand(1, 2000, N_HIDDEN, generator=seeded(2), dtype=torch.float64),
    )
    weights = linear_weights()
    net = linear_network(Dropout.DROPOUT).output(weights, codes, keep=keep(p_keep, 1, 1), noise=noise, n_read=1)[0, 0]
    kept = noise.inputs[0] < p_keep
    assert_close(net, 100 + torch.where(kept, weights["input"][0, codes[0]] / p_keep, 0))


def test_recurrent_dropout_masks_the_previous_state_with_the_noise_of_its_own_step() -> None:
    p_keep, weights, inputs = 0.6, linear_weights(), normal(LENGTH, N_SEQUENCES, N_IN, seed=0)
    noise = draw_noise(coded=False, own=False)
    actual = linear_network(Dropout.DROPOUT).output(
        weights, inputs, keep=keep(1, p_keep, 1), noise=noise, n_read=LENGTH
    )[0]
    hidden = torch.zeros(N_SEQUENCES, N_HIDDEN, dtype=torch.float64)
    for t in range(LENGTH):
        masked = torch.where(noise.recurrent[t] < p_keep, hidden / p_keep, 0)
        hidden = inputs[t] @ weights["input"][0] + weights["bias"][0] + masked @ weights["recurrent"][0]
        assert hidden.min() > 0
        assert_close(actual[t], hidden)


@every_input
@every_batch
def test_dropout_of_a_stack_is_that_of_its_members_alone(coded: bool, own: bool) -> None:
    """Members of different rates threshold the same numbers."""
    shape = network(CELLS["lstm"], Dropout.DROPOUT)
    weights, inputs, noise = draw_weights(shape), draw_inputs(coded, own), draw_noise(coded, own)
    rates = Keep(inputs=torch.tensor([0.3, 0.6, 1.0]).double(), recurrent=torch.tensor([0.9, 0.5, 0.7]).double())
    stacked = shape.output(weights, inputs, keep=rates, noise=noise, n_read=N_READ)
    for k in range(N_MEMBERS):
        alone = shape.output(
            {name: weight[k : k + 1] for name, weight in weights.items()},
            inputs[k : k + 1] if own else inputs,
            keep=Keep(inputs=rates.inputs[k : k + 1], recurrent=rates.recurrent[k : k + 1]),
            noise=Noise(inputs=noise.inputs[k : k + 1], recurrent=noise.recurrent[k : k + 1]) if own else noise,
            n_read=N_READ,
        )
        assert_close(stacked[k : k + 1], alone)


def test_output_raises_when_dropout_has_no_rates() -> None:
    shape = network(CELLS["gru"], Dropout.DROPOUT)
    with pytest.raises(ValueError, match="dropout needs its rates, but got keep=None"):
        shape.output(draw_weights(shape), draw_inputs(True, False), keep=None, noise=draw_noise(True, False), n_read=1)


# Inference and error flow.


@every_cell
@every_input
@every_batch
@pytest.mark.parametrize("dropout", [Dropout.NONE, Dropout.DROPOUT])
def test_infer_equals_the_output_without_noise(cell: Cell, coded: bool, own: bool, dropout: Dropout) -> None:
    shape = network(cell, dropout)
    weights, inputs = draw_weights(shape), draw_inputs(coded, own)
    rates = keep(0.5, 0.5) if dropout is Dropout.DROPOUT else None
    expected = network(cell).output(weights, inputs, keep=None, noise=None, n_read=N_READ)
    assert_close(shape.infer(weights, inputs, keep=rates, n_read=N_READ), expected.detach())


@every_cell
@every_input
@every_batch
def test_infer_does_not_depend_on_how_many_sequences_there_is_room_for(
    cell: Cell, coded: bool, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = network(fuse(cell))
    weights = {name: weight.detach() for name, weight in draw_weights(shape).items()}
    inputs = draw_inputs(coded, own)
    expected = shape.infer(weights, inputs, keep=None, n_read=N_READ)
    for n_together in (1, 3):
        room = n_together * weights["bias"].numel() * LENGTH
        monkeypatch.setattr("models.network.INFERENCE_ITEMS", room)
        assert_close(shape.infer(weights, inputs, keep=None, n_read=N_READ), expected)


@pytest.mark.parametrize("cell", FAST_CELLS.values(), ids=FAST_CELLS.keys())
@every_input
@every_batch
def test_infer_keeps_propagating_the_moments_of_fast_dropout(cell: Cell, coded: bool, own: bool) -> None:
    shape = network(cell, Dropout.FAST)
    weights, inputs, rates = draw_weights(shape), draw_inputs(coded, own), keep(0.5, 0.7)
    expected = shape.output(weights, inputs, keep=rates, noise=None, n_read=N_READ).detach()
    assert_close(shape.infer(weights, inputs, keep=rates, n_read=N_READ), expected)
    assert not torch.allclose(expected, shape.infer(weights, inputs, keep=keep(1, 1), n_read=N_READ))


@pytest.mark.parametrize("name", FAST_CELLS)
@every_input
def test_fast_dropout_at_rate_zero_gives_the_plain_network(name: str, coded: bool) -> None:
    shape, plain = network(FAST_CELLS[name], Dropout.FAST), network(CELLS[name])
    weights, inputs = draw_weights(plain), draw_inputs(coded, False)
    fast = shape.output(weights, inputs, keep=keep(1, 1), noise=None, n_read=N_READ)
    assert_close(fast, plain.output(weights, inputs, keep=None, noise=None, n_read=N_READ))


@every_cell
@every_batch
def test_flow_sums_to_the_gradients_of_the_parameters(cell: Cell, own: bool) -> None:
    shape = network(cell)
    weights, inputs = draw_weights(shape), draw_inputs(True, own)
    target = normal(N_MEMBERS, N_READ, N_SEQUENCES, N_OUT, seed=40)
    output = shape.output(weights, inputs, keep=None, noise=None, n_read=N_READ)
    gradients = dict(zip(weights, grad((output - target).square().sum(), tuple(weights.values())), strict=True))
    _, flow = shape.flow(weights, inputs, keep=None, n_read=N_READ, slope=lambda y: 2 * (y - target))
    assert_close(flow.net.sum((1, 2)), gradients["bias"])
    for name, gradient in flow.weights.items():
        assert_close(gradient, gradients[name])


@pytest.mark.parametrize(
    ("cell", "dropout"),
    [
        *((cell, dropout) for cell in CELLS.values() for dropout in (Dropout.NONE, Dropout.DROPOUT)),
        *((cell, Dropout.FAST) for cell in FAST_CELLS.values()),
    ],
)
@every_input
@every_batch
def test_gradients_are_those_of_autograd_through_the_output(
    cell: Cell, dropout: Dropout, coded: bool, own: bool
) -> None:
    shape = network(cell, dropout)
    weights, inputs = draw_weights(shape), draw_inputs(coded, own)
    rates = None if dropout is Dropout.NONE else keep(0.6, 0.8)
    noise = draw_noise(coded, own) if dropout is Dropout.DROPOUT else None
    target = normal(N_MEMBERS, N_READ, N_SEQUENCES, N_OUT, seed=40)
    output = shape.output(weights, inputs, keep=rates, noise=noise, n_read=N_READ)
    expected = dict(zip(weights, grad((output - target).square().sum(), tuple(weights.values())), strict=True))
    actual = shape.gradients(weights, inputs, keep=rates, noise=noise, n_read=N_READ, slope=lambda y: 2 * (y - target))
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(actual[name], gradient)


@pytest.mark.parametrize(
    ("cell", "dropout"),
    [
        *((cell, dropout) for cell in CELLS.values() for dropout in (Dropout.NONE, Dropout.DROPOUT)),
        *((cell, Dropout.FAST) for cell in FAST_CELLS.values()),
    ],
)
@pytest.mark.parametrize("n_read", [1, LENGTH])
def test_gradients_with_a_penalty_on_states_are_those_of_autograd(cell: Cell, dropout: Dropout, n_read: int) -> None:
    shape = network(cell, dropout)
    weights, inputs = draw_weights(shape), draw_inputs(True, False)
    rates = None if dropout is Dropout.NONE else keep(0.6, 0.8)
    noise = draw_noise(True, False) if dropout is Dropout.DROPOUT else None
    target, factor = normal(N_MEMBERS, n_read, N_SEQUENCES, N_OUT, seed=40), torch.tensor([0.0, 0.3, 2.0]).double()
    output = shape.output(weights, inputs, keep=rates, noise=noise, n_read=n_read)
    # A readout that is the identity shows the states.
    shown = {
        "readout": torch.eye(N_HIDDEN).double().expand(N_MEMBERS, -1, -1),
        "readout_bias": torch.zeros(1, 1).double(),
    }
    states = shape.output({**weights, **shown}, inputs, keep=rates, noise=noise, n_read=LENGTH)
    loss = (output - target).square().sum() + (factor * states.abs().sum((1, 3)).mean(1)).sum()
    expected = dict(zip(weights, grad(loss, tuple(weights.values())), strict=True))
    actual = shape.gradients(
        weights, inputs, keep=rates, noise=noise, n_read=n_read, slope=lambda y: 2 * (y - target), l1_states=factor
    )
    for name, gradient in expected.items():
        assert_close(actual[name], gradient)
