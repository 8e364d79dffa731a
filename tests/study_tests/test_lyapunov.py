"""Lyapunov exponents: closed forms of linear networks, Jacobians by autograd, and a dimension that was published."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models import CELLS
from models.activation import Activation
from models.cell import State, Tape
from models.drive import Drive
from models.dropout import Dropout
from models.elman import Elman
from models.initial import orthogonal
from models.network import Network
from study.seeds import stream
from study.training.lyapunov import (
    factors_by_reflections,
    lyapunov_exponent,
    lyapunov_spectrum,
    spectrum_metrics,
)
from study_tests.probe_book import KINDS, LENGTH, N_HIDDEN, batch, init, keep_of, network, tape_of

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

LINEAR = Activation(name="linear", function=lambda a: a, slope_from_value=torch.ones_like, slope_max=1.0)


def linear(recurrent: Tensor, length: int = LENGTH) -> tuple[Network, dict[str, Tensor], Tape]:
    """A linear network without input: its Jacobian is W^T at every step."""
    n_hidden = recurrent.shape[-1]
    net = Network(cell=Elman(LINEAR), dropout=Dropout.NONE, n_in=1, n_hidden=n_hidden, n_out=1)
    still = torch.zeros(1, length, 1, n_hidden, dtype=torch.float64)
    return (
        net,
        {"recurrent": recurrent[None]},
        Tape(drive=Drive(parts=(still,)), states=still, gates=still.unsqueeze(-2), saved=()),
    )


def spectrum_of(recurrent: Tensor, length: int = LENGTH) -> list[float]:
    net, weights, tape = linear(recurrent, length)
    found: list[float] = lyapunov_spectrum(net, weights, None, tape)[0].tolist()
    return found


def test_spectrum_of_an_orthogonal_linear_network_is_zero() -> None:
    matrix = orthogonal(stream(1, "q"), 8)
    assert spectrum_of(matrix) == pytest.approx([0] * 8, abs=1e-14)


def test_spectrum_of_an_identity_rectifier_is_zero_while_all_units_are_active() -> None:
    net = network("elman_rectifier")
    weights = init(net, n_members=1)
    weights["recurrent"] = torch.eye(N_HIDDEN, dtype=torch.float64)[None]
    weights["input"], weights["bias"] = torch.zeros_like(weights["input"]), torch.ones_like(weights["bias"])
    found = lyapunov_spectrum(net, weights, None, tape_of(net, weights, batch()))
    assert found[0].tolist() == [0] * N_HIDDEN
    # Nothing is forgotten: all of the state's dimensions remain.
    assert spectrum_metrics(found[0].tolist()) == {"lyapunov/sum": 0, "lyapunov/kaplan_yorke": N_HIDDEN}


def test_spectrum_of_a_diagonal_matrix_are_the_logarithms_of_its_entries() -> None:
    entries = torch.tensor([0.5, -2.0, 1e-3, 1.0], dtype=torch.float64)
    # Twelve steps are whole intervals between factorisations, thirteen are not.
    for length in (12, 13):
        found = spectrum_of(entries.diag(), length)
        assert found == pytest.approx([math.log(2), 0, math.log(0.5), math.log(1e-3)], rel=1e-12, abs=1e-12)


def test_spectrum_of_a_linear_network_tends_to_the_logarithms_of_its_eigenvalues() -> None:
    matrix = torch.randn(6, 6, generator=stream(2, "w"), dtype=torch.float64)
    expected = torch.linalg.eigvals(matrix).abs().log().sort(descending=True).values
    # The difference falls as 1/T times the logarithm of the eigenvectors' condition number, here a few units.
    assert spectrum_of(matrix, 3000) == pytest.approx(expected.tolist(), abs=3e-3)


# Autograd's Jacobian of a truncated recurrence lacks what is cut; its dynamics are those of the whole one.
@pytest.mark.parametrize(("cell", "dropout"), [kind for kind in KINDS if CELLS[kind[0]].exact_gradient])
def test_spectrum_is_that_of_the_product_of_autograds_jacobians(cell: str, dropout: Dropout) -> None:
    net, data = network(cell, dropout), batch(8)
    weights, keep = init(net), keep_of(net)
    found = lyapunov_spectrum(net, weights, keep, tape_of(net, weights, data))
    drive, gain = net.drive(weights, data.inputs[:, :1], keep)
    parts = drive.dense()
    state = net.cell.start(torch.zeros(2, 1, N_HIDDEN, dtype=torch.float64))
    product = torch.eye(sum(part.shape[-1] for part in state), dtype=torch.float64).repeat(2, 1, 1)
    log_volume = torch.zeros(2, dtype=torch.float64)
    for t in range(8):

        def step(*before: Tensor, t: int = t) -> State:
            here = net.cell.at_step(net.recurrent(weights), t, 8)
            return net.cell.step(here, before, tuple(part[:, t] for part in parts), gain)

        jacobian = jacobian_of(step, state)
        log_volume += torch.linalg.slogdet(jacobian).logabsdet
        product = jacobian @ product
        state = step(*state)
    # A rectifier leaves no volume, unless fast dropout smooths it. Far below zero its moments cancel, and their slopes
    # keep seven digits.
    smooth = cell not in {"elman_rectifier", "untied_rectifier"} or dropout is Dropout.FAST
    expected_sum = log_volume / 8 if smooth else torch.full_like(log_volume, -torch.inf)
    # The states of an LSTM of 1997 shrink beside its cells, by e^-30 from one factorisation to the next: five digits.
    torch.testing.assert_close(found.sum(-1), expected_sum, rtol=1e-5 if cell == "lstm_1997" else 1e-6, atol=0)
    # Of a short product one factorisation at its end will do, for directions within e^24 = 4e10 of the largest.
    expected = torch.linalg.qr(product).R.diagonal(dim1=-2, dim2=-1).abs().log() / 8
    for k in range(2):
        wanted = expected[k][expected[k] > expected[k].max() - 3].sort(descending=True).values
        torch.testing.assert_close(found[k, : len(wanted)], wanted, rtol=1e-4, atol=1e-4)


def jacobian_of(step: Callable[..., State], state: State) -> Tensor:
    """``[K, S, S]``, of the state after a step by the state before it."""
    blocks = torch.autograd.functional.jacobian(step, state)
    # Each block is [K, 1, H, K, 1, H], and members do not act on one another.
    rows = [torch.cat([block.squeeze(4).squeeze(1) for block in row], dim=-1) for row in blocks]
    return torch.stack([torch.cat([row[k, :, k] for row in rows]) for k in range(state[0].shape[0])])


@pytest.mark.parametrize("cell", ["elman_tanh", "lstm", "gru"])
def test_largest_exponent_agrees_with_the_growth_of_a_random_tangent(cell: str) -> None:
    net, data = network(cell), batch(400)
    weights = init(net, scale=1.5)
    # One sequence for both. Each starts from other directions, which costs a few units over 400 steps.
    tape = tape_of(net, weights, data)
    one = Tape(
        drive=tape.drive,
        states=tape.states[:, :, :1],
        gates=tape.gates[:, :, :1],
        saved=tuple(part[:, :, :1] for part in tape.saved),
    )
    largest = lyapunov_spectrum(net, weights, None, one)[:, 0]
    torch.testing.assert_close(largest, lyapunov_exponent(net, weights, None, one), rtol=0, atol=0.015)


def test_exponent_is_the_mean_over_steps_and_sequences() -> None:
    net, data = network("elman_tanh"), batch()
    weights = init(net)
    # All units are alike, so that whatever a tangent's direction, a step multiplies it by 0.9 times the slope.
    weights["recurrent"] = 0.9 * torch.eye(N_HIDDEN, dtype=torch.float64).expand(2, -1, -1)
    weights["input"] = weights["input"][..., :1].expand(-1, -1, N_HIDDEN).contiguous()
    tape = tape_of(net, weights, data)
    growth = (0.9 * (1 - tape.states[..., 0].square())).log()
    assert float(growth.mean(1).std(1).min()) > 0.01
    torch.testing.assert_close(lyapunov_exponent(net, weights, None, tape), growth.mean((1, 2)), rtol=1e-10, atol=0)


def test_exponent_is_the_logarithm_of_an_orthogonal_rectifiers_gain() -> None:
    net = network("elman_rectifier")
    weights = init(net, n_members=1)
    # With all units active the Jacobian is 0.9 times the identity, at every step.
    weights["recurrent"] = 0.9 * torch.eye(N_HIDDEN, dtype=torch.float64).unsqueeze(0)
    weights["input"] = torch.ones_like(weights["input"])
    tape = tape_of(net, weights, batch())
    assert lyapunov_exponent(net, weights, None, tape).item() == pytest.approx(math.log(0.9), rel=1e-12)
    assert lyapunov_spectrum(net, weights, None, tape)[0].tolist() == pytest.approx([math.log(0.9)] * N_HIDDEN)


def test_directions_that_die_are_infinitely_negative() -> None:
    matrix = torch.randn(6, 6, generator=stream(3, "w"), dtype=torch.float64)
    # Of rank 4: the factorisation's rounding must not pass for growth.
    matrix = matrix[:, :4] @ matrix[:4]
    found = spectrum_of(matrix, 60)
    assert all(math.isfinite(one) for one in found[:4])
    assert found[4:] == [-math.inf, -math.inf]
    assert spectrum_metrics(found)["lyapunov/sum"] == -math.inf
    net = network("elman_rectifier")
    weights = init(net, n_members=1)
    weights["bias"] = torch.full_like(weights["bias"], -100.0)
    dead = lyapunov_spectrum(net, weights, None, tape_of(net, weights, batch()))
    assert dead[0].tolist() == [-math.inf] * N_HIDDEN


def test_spectrum_of_a_diverged_member_leaves_the_other_alone() -> None:
    net = network("elman_tanh")
    weights = init(net)
    sound = lyapunov_spectrum(net, weights, None, tape_of(net, weights, batch()))[1]
    weights["recurrent"][0, 0, 0] = math.nan
    broken = lyapunov_spectrum(net, weights, None, tape_of(net, weights, batch()))
    assert broken[0].isnan().all()
    torch.testing.assert_close(broken[1], sound, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1, 2, 30])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
def test_factors_by_reflections_are_orthogonal_and_triangular(size: int, device: str) -> None:
    generator = torch.Generator().manual_seed(size)
    matrices = torch.randn(6, size, size, generator=generator, dtype=torch.float64)
    # With columns of very different sizes, that are alike, zero, and in need of no reflection.
    matrices[1] *= torch.logspace(0, -30, size, dtype=torch.float64)
    matrices[2, :, -1] = matrices[2, :, 0]
    matrices[3, :, 0] = 0
    matrices[4].triu_()
    matrices[5] = 0
    q, scale = (found.cpu() for found in factors_by_reflections(matrices.to(device)))
    torch.testing.assert_close(q.mT @ q, torch.eye(size, dtype=torch.float64).expand_as(q), rtol=0, atol=1e-13)
    r = q.mT @ matrices
    torch.testing.assert_close(r.tril(-1), torch.zeros_like(r), rtol=0, atol=1e-13)
    torch.testing.assert_close(r.diagonal(dim1=-2, dim2=-1).abs(), scale, rtol=0, atol=1e-13)
    expected = torch.linalg.qr(matrices).R.diagonal(dim1=-2, dim2=-1).abs()
    torch.testing.assert_close(scale, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(scale[1], expected[1], rtol=1e-9, atol=0)


def test_spectrum_of_overflowing_states_is_unknown() -> None:
    net = network("elman_rectifier")
    weights = init(net, scale=1e100)
    assert lyapunov_spectrum(net, weights, None, tape_of(net, weights, batch())).isnan().all()


def test_kaplan_yorke_dimension_of_published_spectra() -> None:
    # Lorenz's attractor, Sprott 2003, Chaos and Time-Series Analysis, table A.
    assert spectrum_metrics([0.9056, 0.0, -14.5723])["lyapunov/kaplan_yorke"] == pytest.approx(2.06215, abs=1e-5)
    # Henon's map, ibidem.
    assert spectrum_metrics([0.41922, -1.62319])["lyapunov/kaplan_yorke"] == pytest.approx(1.25827, abs=1e-5)


def test_kaplan_yorke_dimension_at_its_ends() -> None:
    assert spectrum_metrics([-0.1, -0.2]) == pytest.approx({"lyapunov/sum": -0.3, "lyapunov/kaplan_yorke": 0.0})
    assert spectrum_metrics([0.3, -0.2]) == pytest.approx({"lyapunov/sum": 0.1, "lyapunov/kaplan_yorke": 2.0})
    assert spectrum_metrics([0.3, -math.inf]) == {"lyapunov/sum": -math.inf, "lyapunov/kaplan_yorke": 1.0}
    assert spectrum_metrics([-math.inf, -math.inf])["lyapunov/kaplan_yorke"] == 0.0
    assert spectrum_metrics([]) == {}
