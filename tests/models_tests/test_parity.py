"""The cells and whole networks against torch's own modules: values and gradients in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.autograd import grad
from torch.nn.functional import one_hot

from models import CELLS
from models.cell import Weights
from models.drive import Drive
from models.dropout import Dropout
from models.fused import fuse
from models.lstm import Lstm
from models.network import Network
from models.unroll import unroll

assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
"""Two orders of summation in float64: 1e-16 per operation, a few thousand of them."""

N_MEMBERS, LENGTH, N_SEQUENCES, N_IN, N_HIDDEN, N_OUT, N_READ = 3, 9, 4, 5, 6, 2, 2

MODULES: dict[str, Callable[[], nn.RNNBase]] = {
    "elman_tanh": lambda: nn.RNN(N_IN, N_HIDDEN, nonlinearity="tanh", dtype=torch.float64),
    "elman_rectifier": lambda: nn.RNN(N_IN, N_HIDDEN, nonlinearity="relu", dtype=torch.float64),
    "gru": lambda: nn.GRU(N_IN, N_HIDDEN, dtype=torch.float64),
    "lstm": lambda: nn.LSTM(N_IN, N_HIDDEN, dtype=torch.float64),
}
every_module = pytest.mark.parametrize("name", MODULES)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def module(name: str, seed: int) -> nn.RNNBase:
    """One with parameters large enough that nonlinearities bend and gates differ."""
    made = MODULES[name]()
    with torch.no_grad():
        for k, parameter in enumerate(made.parameters()):
            parameter.copy_(0.6 * normal(*parameter.shape, seed=100 * seed + k))
    return made


def translate(name: str, made: nn.RNNBase, *, values: bool = True) -> dict[str, Tensor]:
    """Torch's parameters, or their gradients, in this package's names and layout.

    Torch has two biases. As values they add up; as gradients they are equal. The exception is the bias inside the GRU's
    candidate, which the reset gate multiplies.
    """
    w_in, w, b_in, b = ((p if values else p.grad).detach().clone() for p in made.parameters())  # type: ignore[union-attr]
    translated = {"input": w_in.T, "recurrent": w.T, "bias": b_in}
    if name == "gru":
        translated["recurrent_bias"] = b[2 * N_HIDDEN :]
        b = b.index_fill(0, torch.arange(2 * N_HIDDEN, 3 * N_HIDDEN), 0)
    if values:
        translated["bias"] = b_in + b
    return translated


@every_module
def test_unroll_equals_the_module_of_torch(name: str) -> None:
    made, cell = module(name, seed=0), CELLS[name]
    inputs = normal(LENGTH, N_SEQUENCES, N_IN, seed=1).requires_grad_()
    cotangent = normal(N_READ, N_SEQUENCES, N_HIDDEN, seed=2)
    expected = made(inputs)[0][-N_READ:]
    expected.backward(cotangent)
    assert inputs.grad is not None

    weights = translate(name, made)
    recurrent = {key: weights[key][None].requires_grad_() for key in cell.shapes(N_HIDDEN)}
    drive = (inputs.detach() @ weights["input"] + weights["bias"])[None].requires_grad_()
    read = unroll(cell, recurrent, Drive(parts=(drive,)), None, N_READ)
    to_drive, *to_weights = grad(read, (drive, *recurrent.values()), cotangent[None])

    assert_close(read[0], expected.detach())
    assert_close(to_drive[0] @ weights["input"].T, inputs.grad)
    gradients = translate(name, made, values=False)
    for key, gradient in zip(recurrent, to_weights, strict=True):
        assert_close(gradient[0], gradients[key])


def test_logistic_elman_equals_a_loop() -> None:
    """Torch has no logistic RNN."""
    w = normal(N_HIDDEN, N_HIDDEN, seed=0).requires_grad_()
    drive = normal(LENGTH, N_SEQUENCES, N_HIDDEN, seed=1).requires_grad_()
    cotangent = normal(N_READ, N_SEQUENCES, N_HIDDEN, seed=2)
    hidden, states = torch.zeros(N_SEQUENCES, N_HIDDEN, dtype=torch.float64), []
    for t in range(LENGTH):
        hidden = 1 / (1 + torch.exp(-(drive[t] + hidden @ w)))
        states.append(hidden)
    expected = torch.stack(states[-N_READ:])
    read = unroll(CELLS["elman_logistic"], {"recurrent": w[None]}, Drive(parts=(drive[None],)), None, N_READ)[0]
    assert_close(read, expected)
    assert_close(grad(read, (w, drive), cotangent), grad(expected, (w, drive), cotangent))


@pytest.mark.parametrize(("name", "f"), [("tanh", torch.tanh), ("logistic", torch.sigmoid), ("rectifier", torch.relu)])
@pytest.mark.parametrize("fused", [False, True])
def test_leaky_integration_equals_a_loop_over_units(name: str, f: Callable[[Tensor], Tensor], fused: bool) -> None:
    w = (0.6 * normal(N_HIDDEN, N_HIDDEN, seed=0)).requires_grad_()
    drive = normal(LENGTH, N_SEQUENCES, N_HIDDEN, seed=1).requires_grad_()
    cotangent = normal(N_READ, N_SEQUENCES, N_HIDDEN, seed=2)
    alpha = torch.linspace(0, 0.98, N_HIDDEN, dtype=torch.float64)
    hidden = [torch.zeros(N_SEQUENCES, dtype=torch.float64)] * N_HIDDEN
    states = []
    for t in range(LENGTH):
        net = [drive[t, :, i] + sum(w[j, i] * hidden[j] for j in range(N_HIDDEN)) for i in range(N_HIDDEN)]
        hidden = [alpha[i] * hidden[i] + (1 - alpha[i]) * f(net[i]) for i in range(N_HIDDEN)]
        states.append(torch.stack(hidden, dim=1))
    expected = torch.stack(states[-N_READ:])
    cell = fuse(CELLS[f"leaky_{name}"]) if fused else CELLS[f"leaky_{name}"]
    retention = alpha[None].clone().requires_grad_()
    weights = {"recurrent": w[None], "retention": retention}
    read = unroll(cell, weights, Drive(parts=(drive[None],)), None, N_READ)[0]
    assert_close(read, expected)
    *found, by_retention = grad(read, (w, drive, retention), cotangent)
    assert_close(tuple(found), grad(expected, (w, drive), cotangent))
    assert not by_retention.any()


@pytest.mark.parametrize("name", ["tanh", "logistic", "rectifier"])
def test_leaky_network_that_keeps_nothing_is_elmans(name: str) -> None:
    weights = {"recurrent": normal(1, N_HIDDEN, N_HIDDEN, seed=0)}
    drive = Drive(parts=(normal(1, LENGTH, N_SEQUENCES, N_HIDDEN, seed=1),))
    nothing = torch.zeros(1, N_HIDDEN, dtype=torch.float64)
    leaky = fuse(CELLS[f"leaky_{name}"]).forward(weights | {"retention": nothing}, drive, None)
    assert torch.equal(leaky.states, fuse(CELLS[f"elman_{name}"]).forward(weights, drive, None).states)


def test_state_space_model_equals_its_equations() -> None:
    a, b, c = normal(N_HIDDEN, N_HIDDEN, seed=0), normal(N_HIDDEN, N_IN, seed=1), normal(N_OUT, N_HIDDEN, seed=2)
    theta, inputs = normal(N_HIDDEN, seed=3), normal(LENGTH, N_SEQUENCES, N_IN, seed=4)
    expected = torch.zeros(N_SEQUENCES, N_OUT, dtype=torch.float64)
    for sequence in range(N_SEQUENCES):
        s = torch.zeros(N_HIDDEN, dtype=torch.float64)
        for t in range(LENGTH):
            s = torch.tanh(a @ s + b @ inputs[t, sequence] + theta)
        expected[sequence] = c @ s
    columns = {"input": b, "recurrent": a, "readout": c}
    weights = {name: matrix.T[None] for name, matrix in columns.items()}
    weights |= {"bias": theta[None], "readout_bias": torch.zeros(1, N_OUT, dtype=torch.float64)}
    cell = fuse(CELLS["state_space"])
    network = Network(cell=cell, dropout=Dropout.NONE, n_in=N_IN, n_hidden=N_HIDDEN, n_out=N_OUT)
    assert_close(network.output(weights, inputs, keep=None, noise=None, n_read=1)[0, 0], expected)


def test_lstm_carousel_is_the_total_derivative_by_the_cell() -> None:
    w = 0.6 * normal(N_HIDDEN, 4 * N_HIDDEN, seed=0)
    drive = normal(LENGTH, N_SEQUENCES, 4 * N_HIDDEN, seed=1)
    cotangent = normal(N_READ, N_SEQUENCES, N_HIDDEN, seed=2)
    hidden = torch.zeros(N_SEQUENCES, N_HIDDEN, dtype=torch.float64)
    cell, cells, states = hidden, [], []
    for t in range(LENGTH):
        i, f, g, o = (drive[t] + hidden @ w).chunk(4, dim=-1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        # A leaf per step, through which all later errors pass.
        cell = cell.requires_grad_()
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        cells.append(cell)
        states.append(hidden)
    expected = torch.stack(grad(torch.stack(states[-N_READ:]), cells, cotangent))
    weights: Weights = {"recurrent": w[None]}
    flow = Lstm().backward(weights, Lstm().forward(weights, Drive(parts=(drive[None],)), None), None, cotangent[None])
    assert flow.carousel is not None
    assert_close(flow.carousel[0], expected)


@every_module
@pytest.mark.parametrize("coded", [True, False], ids=["codes", "values"])
@pytest.mark.parametrize("own", [True, False], ids=["own", "shared"])
def test_network_equals_modules_of_torch(name: str, coded: bool, own: bool) -> None:
    modules = [module(name, seed=k) for k in range(N_MEMBERS)]
    readouts = [nn.Linear(N_HIDDEN, N_OUT, dtype=torch.float64) for _ in modules]
    weights: dict[str, Tensor] = {}
    for key in translate(name, modules[0]):
        weights[key] = torch.stack([translate(name, made)[key] for made in modules]).requires_grad_()
    with torch.no_grad():
        for k, readout in enumerate(readouts):
            readout.weight.copy_(normal(N_OUT, N_HIDDEN, seed=200 + k))
            readout.bias.copy_(normal(N_OUT, seed=300 + k))
    weights["readout"] = torch.stack([readout.weight.detach().T for readout in readouts]).requires_grad_()
    weights["readout_bias"] = torch.stack([readout.bias.detach() for readout in readouts]).requires_grad_()

    sizes = (N_MEMBERS, LENGTH, N_SEQUENCES) if own else (LENGTH, N_SEQUENCES)
    codes = torch.randint(N_IN, sizes, generator=Generator().manual_seed(7))
    inputs = codes if coded else normal(*sizes, N_IN, seed=8)
    dense = one_hot(codes, N_IN).double() if coded else inputs
    network = Network(cell=CELLS[name], dropout=Dropout.NONE, n_in=N_IN, n_hidden=N_HIDDEN, n_out=N_OUT)
    output = network.output(weights, inputs, keep=None, noise=None, n_read=N_READ)
    cotangent = normal(*output.shape, seed=9)
    gradients = dict(zip(weights, grad(output, tuple(weights.values()), cotangent), strict=True))

    for k, (made, readout) in enumerate(zip(modules, readouts, strict=True)):
        expected = readout(made(dense[k] if own else dense)[0][-N_READ:])
        expected.backward(cotangent[k])
        assert_close(output[k], expected)
        assert readout.weight.grad is not None
        assert readout.bias.grad is not None
        wanted = translate(name, made, values=False)
        wanted |= {"readout": readout.weight.grad.T, "readout_bias": readout.bias.grad}
        assert wanted.keys() == gradients.keys()
        for key, gradient in wanted.items():
            assert_close(gradients[key][k], gradient)
