"""The feed-forward chain: a loop over layers of torch, Elman's network where all layers are equal, and its depth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.autograd import grad

from models import CELLS
from models.cell import Cell
from models.drive import Drive
from models.fused import fuse
from models.network import Dropout, Network
from models.unroll import unroll

assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
"""Two orders of summation in float64: 1e-16 per operation, a few thousand of them."""

N_MEMBERS, N_LAYERS, N_SEQUENCES, N_IN, N_HIDDEN, N_OUT, N_READ = 2, 9, 4, 3, 5, 2, 2

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "rectifier": torch.relu,
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_form = pytest.mark.parametrize("form", [lambda cell: cell, fuse], ids=["plain", "fused"])

Form = Callable[[Cell], Cell]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def chain(name: str, form: Form) -> Cell:
    return form(CELLS[f"untied_{name}"].for_length(N_LAYERS))


def linear(n_in: int, n_out: int, *, bias: bool, seed: int) -> nn.Linear:
    made = nn.Linear(n_in, n_out, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.6 * normal(*parameter.shape, seed=seed))
    return made


def gradient_of(made: nn.Linear) -> Tensor:
    """In this package's layout; a layer that took no part has none."""
    return torch.zeros_like(made.weight.T) if made.weight.grad is None else made.weight.grad.T


@every_function
@every_form
@pytest.mark.parametrize("length", [N_LAYERS, 6, 1])
def test_network_equals_a_list_of_linear_layers_of_which_the_last_are_passed(
    name: str, form: Form, length: int
) -> None:
    n_read = min(N_READ, length)
    into, out = linear(N_IN, N_HIDDEN, bias=True, seed=1), linear(N_HIDDEN, N_OUT, bias=True, seed=2)
    layers = [linear(N_HIDDEN, N_HIDDEN, bias=False, seed=10 + t) for t in range(N_LAYERS)]
    inputs = normal(length, N_SEQUENCES, N_IN, seed=3)
    hidden, outputs = torch.zeros(N_SEQUENCES, N_HIDDEN, dtype=torch.float64), []
    for value, layer in zip(inputs, layers[N_LAYERS - length :], strict=True):
        hidden = FUNCTIONS[name](into(value) + layer(hidden))
        outputs.append(out(hidden))
    expected = torch.stack(outputs[-n_read:])
    cotangent = normal(*expected.shape, seed=4)
    expected.backward(cotangent)

    weights = {"input": into.weight.T, "bias": into.bias, "readout": out.weight.T, "readout_bias": out.bias}
    weights["recurrent"] = torch.stack([layer.weight.T for layer in layers])
    leaves = {key: weight.detach()[None].clone().requires_grad_() for key, weight in weights.items()}
    network = Network(cell=chain(name, form), dropout=Dropout.NONE, n_in=N_IN, n_hidden=N_HIDDEN, n_out=N_OUT)
    output = network.output(leaves, inputs, keep=None, noise=None, n_read=n_read)
    assert_close(output[0], expected.detach())
    found = dict(zip(leaves, grad(output, tuple(leaves.values()), cotangent[None]), strict=True))
    for key, made in (("input", into), ("readout", out)):
        assert_close(found[key][0], gradient_of(made))
    for matrix, layer in zip(found["recurrent"][0], layers, strict=True):
        assert_close(matrix, gradient_of(layer))
    # The first layer meets the zero state, and what lies before it no state at all.
    assert not found["recurrent"][0, : N_LAYERS - length + 1].any()


@every_function
@every_form
def test_chain_of_equal_layers_is_elmans_network_whose_gradient_is_their_sum(name: str, form: Form) -> None:
    matrix = (0.6 * normal(N_MEMBERS, N_HIDDEN, N_HIDDEN, seed=0)).requires_grad_()
    equal = matrix.detach()[:, None].repeat(1, N_LAYERS, 1, 1).requires_grad_()
    drive = normal(N_MEMBERS, N_LAYERS, N_SEQUENCES, N_HIDDEN, seed=1).requires_grad_()
    mask = normal(N_MEMBERS, N_LAYERS, N_SEQUENCES, N_HIDDEN, seed=2).abs()
    cotangent = normal(N_MEMBERS, N_READ, N_SEQUENCES, N_HIDDEN, seed=3)
    elman, untied = form(CELLS[f"elman_{name}"]), chain(name, form)
    tied_read = unroll(elman, {"recurrent": matrix}, Drive(parts=(drive,)), mask, N_READ)
    read = unroll(untied, {"recurrent": equal}, Drive(parts=(drive,)), mask, N_READ)
    assert_close(read, tied_read)
    by_drive, by_layers = grad(read, (drive, equal), cotangent)
    assert_close((by_drive, by_layers.sum(1)), grad(tied_read, (drive, matrix), cotangent))
    # They are not equal: how much each layer gets is what sharing does away with.
    assert (by_layers[:, 1] - by_layers[:, -1]).abs().amin(0).max() > 1e-3


@every_function
def test_error_flow_of_a_chain_never_exceeds_the_product_of_its_layers_bounds(name: str) -> None:
    cell = chain(name, fuse)
    weights = {"recurrent": normal(N_MEMBERS, N_LAYERS, N_HIDDEN, N_HIDDEN, seed=0)}
    tape = cell.forward(weights, Drive(parts=(normal(N_MEMBERS, N_LAYERS, N_SEQUENCES, N_HIDDEN, seed=1),)), None)
    delta = cell.backward(weights, tape, None, normal(N_MEMBERS, 1, N_SEQUENCES, N_HIDDEN, seed=2)).net
    flow = torch.linalg.vector_norm(delta, dim=-1)
    assert cell.slope_max is not None
    for t in range(1, N_LAYERS):
        gamma = cell.slope_max * torch.linalg.svdvals(weights["recurrent"][:, t])[:, :1]
        assert (flow[:, t - 1] <= gamma * flow[:, t] * (1 + 1e-12)).all()
    assert flow[:, -1].any()


@every_form
def test_chain_refuses_a_sequence_that_is_longer_than_it_is_deep(form: Form) -> None:
    cell = chain("tanh", form)
    weights = {"recurrent": normal(1, N_LAYERS, N_HIDDEN, N_HIDDEN, seed=0)}
    drive = Drive(parts=(normal(1, N_LAYERS + 1, N_SEQUENCES, N_HIDDEN, seed=1),))
    with pytest.raises(ValueError, match="a layer for every step, but got 9 layers and 10 steps"):
        cell.forward(weights, drive, None)


def test_every_layer_is_drawn_anew() -> None:
    network = Network(
        cell=CELLS["untied_tanh"].for_length(200), dropout=Dropout.NONE, n_in=2, n_hidden=N_HIDDEN, n_out=2
    )
    weights = network.init(
        Generator().manual_seed(0), init="gaussian", init_scale=2.0, input_scale=1.0, forget_bias=0.0
    )
    layers = weights["recurrent"]
    entries = layers.flatten(1) / (2 / N_HIDDEN**0.5)
    # Five standard errors of a mean over 5000 products of two independent normal numbers, and of their squares.
    assert float((entries[1:] * entries[:-1]).mean()) == pytest.approx(0, abs=0.07)
    assert float(entries.square().mean()) == pytest.approx(1, abs=0.1)
