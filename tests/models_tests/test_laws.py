"""Laws of the error flow: bounds and conserved quantities that hold whatever the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from models import CELLS
from models.activation import ACTIVATIONS
from models.drive import Drive
from models.elman import Elman
from models.lstm import Lstm

LENGTH, N_SEQUENCES, N_HIDDEN = 40, 6, 12
OPEN, CLOSED = 50.0, -50.0
"""Net inputs at which a logistic gate is 1 and 0 to 2e-22."""


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def error_flow(cell: Elman, recurrent: Tensor, drive: Tensor) -> Tensor:
    """g(k), k steps before the target at the last step: ``[T]``, the target first."""
    weights = {"recurrent": recurrent[None]}
    tape = cell.forward(weights, Drive(parts=(drive[None],)), None)
    flow = cell.backward(weights, tape, None, normal(1, 1, *drive.shape[1:], seed=9))
    return flow.net[0].square().sum(-1).mean(1).sqrt().flip(0)


@pytest.mark.parametrize("name", ["elman_tanh", "elman_logistic", "elman_rectifier"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.9])
@pytest.mark.parametrize("seed", range(3))
def test_error_flow_stays_below_hochreiters_bound(name: str, scale: float, seed: int) -> None:
    cell = CELLS[name]
    assert isinstance(cell, Elman)
    recurrent = normal(N_HIDDEN, N_HIDDEN, seed=seed)
    recurrent *= scale / torch.linalg.matrix_norm(recurrent, 2)
    flow = error_flow(cell, recurrent, normal(LENGTH, N_SEQUENCES, N_HIDDEN, seed=seed + 10))
    bound = flow[0] * (cell.activation.slope_max * scale) ** torch.arange(LENGTH, dtype=torch.float64)
    assert flow[0] > 0
    # Roundoff alone may cross the bound: 40 products of relative error 1e-15.
    assert (flow <= bound * (1 + 1e-12)).all()


def test_error_flow_of_a_logistic_network_vanishes_below_norm_four() -> None:
    recurrent = normal(N_HIDDEN, N_HIDDEN, seed=0)
    recurrent *= 3.9 / torch.linalg.matrix_norm(recurrent, 2)
    cell = Elman(ACTIVATIONS["logistic"])
    flow = error_flow(cell, recurrent, normal(400, N_SEQUENCES, N_HIDDEN, seed=1))
    # (3.9 / 4)^399 = 4e-5.
    assert flow[-1] < 4.2e-5 * flow[0]


@pytest.mark.parametrize("name", ["tanh", "logistic", "rectifier"])
def test_slope_max_is_the_largest_slope(name: str) -> None:
    net = torch.linspace(-6, 6, 1201, dtype=torch.float64).requires_grad_()
    activation = ACTIVATIONS[name]
    value = activation.function(net)
    (slope,) = torch.autograd.grad(value.sum(), net)
    # The grid holds 0 up to roundoff, where tanh and the logistic function are steepest.
    assert float(slope.max()) == pytest.approx(activation.slope_max, abs=1e-12)
    torch.testing.assert_close(activation.slope_from_value(value.detach()), slope, rtol=1e-12, atol=1e-15)


def test_rectifier_slope_at_zero_is_zero_as_in_torch() -> None:
    assert float(ACTIVATIONS["rectifier"].slope_from_value(torch.zeros(()))) == 0


def test_error_flow_of_an_identity_rectifier_is_constant() -> None:
    drive = torch.zeros(LENGTH, N_SEQUENCES, N_HIDDEN, dtype=torch.float64)
    drive[0] = normal(N_SEQUENCES, N_HIDDEN, seed=0).abs() + 0.1
    flow = error_flow(Elman(ACTIVATIONS["rectifier"]), torch.eye(N_HIDDEN, dtype=torch.float64), drive)
    # Products with ones and zeros are exact; the orders of summation over units may differ.
    torch.testing.assert_close(flow, flow[0].expand(LENGTH), rtol=1e-14, atol=0)


def test_identity_rectifier_counts() -> None:
    drive = torch.ones(1, LENGTH, 1, 1, dtype=torch.float64)
    tape = Elman(ACTIVATIONS["rectifier"]).forward(
        {"recurrent": torch.ones(1, 1, 1).double()}, Drive(parts=(drive,)), None
    )
    assert tape.states.flatten().tolist() == list(range(1, LENGTH + 1))


def test_carousel_holds_value_and_error_when_its_gates_are_closed() -> None:
    """Written at the first step and read at the last, a cell of any recurrent weights is an error carousel between."""
    gates = torch.empty(1, LENGTH, N_SEQUENCES, 4, N_HIDDEN, dtype=torch.float64)
    i, f, g, o = gates.unbind(3)
    i[:], f[:], o[:] = CLOSED, OPEN, CLOSED
    i[:, 0], o[:, -1] = OPEN, OPEN
    g[:] = normal(1, LENGTH, N_SEQUENCES, N_HIDDEN, seed=0)
    cell, weights = Lstm(), {"recurrent": normal(1, N_HIDDEN, 4 * N_HIDDEN, seed=1)}
    tape = cell.forward(weights, Drive(parts=(gates.flatten(3),)), None)
    cotangent = normal(1, 1, N_SEQUENCES, N_HIDDEN, seed=2)
    flow = cell.backward(weights, tape, None, cotangent)
    written = g[:, 0].tanh()
    assert flow.carousel is not None
    # The gates are off by 2e-22 a step, so that roundoff, 1e-16, is all there is.
    torch.testing.assert_close(tape.states[:, -1], written.tanh(), rtol=1e-14, atol=1e-16)
    expected = cotangent[:, 0] * (1 - written.tanh().square())
    torch.testing.assert_close(flow.carousel, expected[:, None].expand_as(flow.carousel), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("forget", [-1.0, 0.0, 2.0])
def test_carousel_decays_by_its_forget_gate(forget: float) -> None:
    gates = torch.full((1, LENGTH, 1, 4, 1), CLOSED, dtype=torch.float64)
    gates[..., 1, :], gates[:, -1, ..., 3, :] = forget, OPEN
    cell, weights = Lstm(), {"recurrent": torch.zeros(1, 1, 4, dtype=torch.float64)}
    tape = cell.forward(weights, Drive(parts=(gates.flatten(3),)), None)
    carousel = cell.backward(weights, tape, None, torch.ones(1, 1, 1, 1, dtype=torch.float64)).carousel
    assert carousel is not None
    steps_back = torch.arange(LENGTH - 1, -1, -1, dtype=torch.float64)
    expected = torch.tensor(forget, dtype=torch.float64).sigmoid() ** steps_back
    torch.testing.assert_close(carousel.flatten(), expected, rtol=1e-13, atol=0)
