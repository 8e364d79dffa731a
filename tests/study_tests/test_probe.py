"""The probe: error flow against autograd, the bounds and laws of the theory, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.drive import Drive
from models.dropout import Dropout
from models.lstm import Lstm
from models.unroll import unroll_reference
from study.seeds import stream
from study.training.probe import error_flow, flow_metrics, probe
from study_tests.probe_book import KINDS, LENGTH, N_HIDDEN, N_SEQUENCES, TASK, batch, init, keep_of, network
from tasks import Batch


@pytest.mark.parametrize(("cell", "dropout"), KINDS)
def test_probe_error_flow_equals_autograds(cell: str, dropout: Dropout) -> None:
    net, data = network(cell, dropout), batch()
    weights = init(net)
    keep = keep_of(net)
    found = probe(net, weights, keep, TASK, data)
    drive, gain = net.drive(weights, data.inputs, keep)
    mean, *variance = drive.dense()
    mean.requires_grad_()
    hidden = unroll_reference(net.cell, net.recurrent(weights), Drive(parts=(mean, *variance)), gain, 1)
    output = hidden @ weights["readout"].unsqueeze(1) + weights["readout_bias"][:, None, None]
    # The loss of one sequence is E; summing over sequences leaves each sequence's own error signals.
    (delta,) = torch.autograd.grad(TASK.loss(data, output).sum() * N_SEQUENCES, mean)
    gates = net.cell.gate_names
    blocks = delta.chunk(net.cell.n_gates, dim=-1)
    assert len(gates) in {0, len(blocks)}
    for name, signal in {"": delta, **dict(zip(gates, blocks, strict=False))}.items():
        expected = signal.square().sum(-1).mean(-1).sqrt().flip(1)
        for k in range(2):
            curve = found[k].part_flow[name] if name else found[k].error_flow
            torch.testing.assert_close(
                torch.tensor(curve, dtype=torch.float64), expected[k, 1:], rtol=1e-10, atol=1e-14
            )


@pytest.mark.parametrize("cell", ["lstm", "lstm_1997", "gru", "min_gru"])
def test_probe_flow_of_the_state_equals_autograds(cell: str) -> None:
    net, data = network(cell), batch()
    weights = init(net)
    recurrent, (mean,) = net.recurrent(weights), net.drive(weights, data.inputs, None)[0].dense()
    # Nudges of what readout and recurrence see of a step, which for LSTM is not all that it carries.
    nudges = torch.zeros(*mean.shape[:-1], N_HIDDEN, dtype=mean.dtype, requires_grad=True)
    state = net.cell.start(nudges[:, 0])
    for t in range(LENGTH):
        hidden, *others = net.cell.step(recurrent, state, (mean[:, t],), None)
        state = (hidden + nudges[:, t], *others)
    output = state[0].unsqueeze(1) @ weights["readout"].unsqueeze(1) + weights["readout_bias"][:, None, None]
    (signal,) = torch.autograd.grad(TASK.loss(data, output).sum() * N_SEQUENCES, nudges)
    expected = signal.square().sum(-1).mean(-1).sqrt().flip(1)
    for k, found in enumerate(probe(net, weights, None, TASK, data)):
        curve = torch.tensor(found.part_flow["state"], dtype=torch.float64)
        torch.testing.assert_close(curve, expected[k, 1:], rtol=1e-10, atol=1e-14)
        assert {"gradient/state/decay_rate", "gradient/state/horizon"} <= found.metrics.keys()


@pytest.mark.parametrize("cell", ["elman_tanh", "elman_logistic", "elman_rectifier"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_probe_error_flow_obeys_hochreiters_bound(cell: str, scale: float) -> None:
    net, data = network(cell), batch()
    weights = init(net, scale=scale)
    drive, _ = net.drive(weights, data.inputs, None)
    tape = net.cell.forward(net.recurrent(weights), drive, None)
    cotangent = torch.randn(2, 1, N_SEQUENCES, N_HIDDEN, dtype=torch.float64, generator=stream(5, "cotangent"))
    g = error_flow(net.cell.backward(net.recurrent(weights), tape, None, cotangent).net)
    slope_max = 0.25 if cell == "elman_logistic" else 1.0
    norm = torch.linalg.matrix_norm(weights["recurrent"], ord=2)
    bound = g[:, :1] * (slope_max * norm[:, None]) ** torch.arange(LENGTH)
    assert (g <= bound * (1 + 1e-12)).all()


@pytest.mark.parametrize(("cell", "dropout"), KINDS)
def test_probe_of_a_single_step_finds_no_flow_back(cell: str, dropout: Dropout) -> None:
    net, data = network(cell, dropout), batch()
    single = Batch(inputs=data.inputs[:1], targets=data.targets)
    for found in probe(net, init(net), keep_of(net), TASK, single):
        assert found.error_flow == ()
        assert set(found.part_flow.values()) <= {()}


def test_error_flow_is_the_root_mean_square_of_norms_from_the_last_step_back() -> None:
    delta = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    assert error_flow(delta)[0].tolist() == pytest.approx([1.0, math.sqrt(25 / 2)])


def metrics_of(*curve: float) -> tuple[float, float, float]:
    """Decay rate, half-life and horizon, beside a member whose curve is another."""
    other = [0.5**k for k in range(len(curve))]
    found = flow_metrics(torch.tensor([other, list(curve)], dtype=torch.float64))
    rate, half_life, horizon = (found[name][1].item() for name in ("decay_rate", "half_life", "horizon"))
    return rate, half_life, horizon


def test_flow_metrics_recover_an_exponential() -> None:
    rate, half_life, horizon = metrics_of(*(2.0 * math.exp(-0.25 * k) for k in range(1, 60)))
    assert rate == pytest.approx(-0.25, rel=1e-9)
    assert half_life == pytest.approx(math.log(2) / 0.25, rel=1e-9)
    # exp(-0.25 (k - 1)) >= 1e-3 holds up to k = 1 + floor(4 ln 1000) = 28.
    assert horizon == 28


def test_flow_metrics_are_of_the_steps_at_which_there_is_an_error() -> None:
    curve = [math.exp(-0.25 * k) * (k % 3 != 1) for k in range(2, 40)]
    rate, half_life, horizon = metrics_of(*curve)
    assert rate == pytest.approx(-0.25, rel=1e-9)
    assert half_life == pytest.approx(math.log(2) / 0.25, rel=1e-9)
    assert horizon == 28


def test_flow_metrics_are_a_least_squares_line() -> None:
    curve = [1.0, 0.7, 0.9, 0.1, 0.2]
    slope, _ = np.polyfit(range(1, 6), np.log(curve), 1)
    assert metrics_of(*curve)[0] == pytest.approx(slope, rel=1e-9)


def test_flow_metrics_of_growing_and_dead_flows() -> None:
    rate, half_life, horizon = metrics_of(1.0, 2.0, 4.0)
    assert rate == pytest.approx(math.log(2))
    assert (half_life, horizon) == (math.inf, 3)
    for dead in ((0.0, 0.0), (), (0.0,)):
        assert metrics_of(*dead) == (-math.inf, 0.0, 0)
    # One step makes no line.
    assert metrics_of(3.0, 0.0) == (-math.inf, 0.0, 1)


def test_flow_metrics_of_overflowing_flows() -> None:
    rate, half_life, horizon = metrics_of(1.0, 2.0, 4.0, math.inf, math.nan)
    assert rate == pytest.approx(math.log(2))
    assert (half_life, horizon) == (math.inf, 4)
    for curve in ([1.0, math.inf], [1.0, math.nan], [math.nan] * 3, [math.inf] * 3):
        rate, half_life, horizon = metrics_of(*curve)
        assert math.isnan(rate)
        assert math.isnan(half_life)
        assert math.isnan(horizon) == (not math.isfinite(curve[0]))


def test_probe_reports_saturation_death_and_spectrum() -> None:
    net = network("elman_rectifier")
    weights = init(net)
    weights["bias"] = torch.full_like(weights["bias"], -100.0)
    weights["recurrent"][0] = 0.5 * torch.eye(N_HIDDEN, dtype=torch.float64)
    dead = probe(net, weights, None, TASK, batch())[0].metrics
    assert dead["state/dead"] == 1.0
    assert dead["state/saturation"] == 1.0
    assert dead["state/activity"] == 0.0
    assert dead["recurrent/spectral_radius"] == pytest.approx(0.5)
    assert dead["recurrent/largest_singular_value"] == pytest.approx(0.5)
    assert dead["lyapunov/max"] == -math.inf


def test_probe_counts_units_that_are_saturated_and_units_that_never_speak() -> None:
    n_steps, n_sequences = LENGTH, N_SEQUENCES
    net, data = network("elman_tanh"), batch()
    weights = init(net)
    for name in ("input", "recurrent"):
        weights[name] = torch.zeros_like(weights[name])
    # Slopes 1 - tanh^2 of 0.04, 0.06 and 1: the first of six units alone is saturated.
    weights["bias"][0] = torch.tensor([0.96**0.5, 0.94**0.5, 0, 0, 0, 0], dtype=torch.float64).atanh()
    found = probe(net, weights, None, TASK, data)[0].metrics
    assert found["state/saturation"] == pytest.approx(1 / N_HIDDEN)
    assert found["state/activity"] == pytest.approx((0.96**0.5 + 0.94**0.5) / N_HIDDEN)
    net = network("elman_rectifier")
    weights["bias"][0] = -1
    # The second unit speaks of one symbol only, which comes now and then.
    weights["input"][0, int(data.inputs[3, 2]), 1] = 2
    n_spoken = int((data.inputs == data.inputs[3, 2]).sum())
    assert 0 < n_spoken < n_steps * n_sequences
    found = probe(net, weights, None, TASK, data)[0].metrics
    assert found["state/dead"] == pytest.approx((N_HIDDEN - 1) / N_HIDDEN)
    assert found["state/activity"] == pytest.approx(n_spoken / (n_steps * n_sequences * N_HIDDEN))


@pytest.mark.parametrize(("cell", "dropout"), KINDS)
def test_probe_of_a_diverged_member_leaves_the_other_alone(cell: str, dropout: Dropout) -> None:
    net = network(cell, dropout)
    weights, keep = init(net), keep_of(net)
    (_, sound) = probe(net, weights, keep, TASK, batch())
    for part in weights.values():
        part[0] = math.nan
    broken = probe(net, weights, keep, TASK, batch())
    assert broken[1] == sound
    assert all(math.isnan(g) for curve in (broken[0].error_flow, *broken[0].part_flow.values()) for g in curve)
    assert all(math.isnan(value) for value in broken[0].metrics.values())


def test_probe_of_overflowing_states_does_not_tell_of_a_vanishing_error() -> None:
    # Finite weights; the states overflow on the way, and a rectifier's slope at NaN is 0.
    net = network("elman_rectifier")
    (found, _) = probe(net, init(net, scale=1e100), None, TASK, batch())
    unknown = {name for name, value in found.metrics.items() if math.isnan(value)}
    assert {"gradient/decay_rate", "gradient/half_life", "gradient/horizon", "lyapunov/max"} <= unknown
    assert {"state/saturation", "state/dead", "state/activity"} <= unknown
    assert found.metrics["recurrent/spectral_radius"] > 1e99


def test_probe_of_lstm_also_follows_the_carousel() -> None:
    net, data = network("lstm"), batch()
    weights = init(net)
    one = probe(net, weights, None, TASK, data)[0]
    (net_input,) = net.drive(weights, data.inputs, None)[0].dense()
    hidden = cell = torch.zeros(N_SEQUENCES, N_HIDDEN, dtype=torch.float64)
    cells = []
    for t in range(LENGTH):
        i, f, g, o = (net_input[0, t] + hidden @ weights["recurrent"][0]).chunk(4, dim=-1)
        # A leaf per step, through which all later errors pass.
        cell = (f.sigmoid() * cell + i.sigmoid() * g.tanh()).requires_grad_()
        hidden = o.sigmoid() * cell.tanh()
        cells.append(cell)
    output = (hidden @ weights["readout"][0] + weights["readout_bias"][0])[None, None]
    signals = torch.stack(torch.autograd.grad(TASK.loss(data, output).sum() * N_SEQUENCES, cells))
    expected = signals.square().sum(-1).mean(-1).sqrt().flip(0)[1:]
    curve = torch.tensor(one.part_flow["carousel"], dtype=torch.float64)
    torch.testing.assert_close(curve, expected, rtol=1e-10, atol=1e-14)
    for name, wanted in flow_metrics(expected[None]).items():
        assert one.metrics[f"gradient/carousel/{name}"] == pytest.approx(wanted.item())
    assert list(one.part_flow) == ["input", "forget", "candidate", "output", "carousel", "state"]


def test_probe_tells_which_gates_carry_the_error() -> None:
    net = network("lstm")
    weights = init(net)
    forget, output = slice(N_HIDDEN, 2 * N_HIDDEN), slice(3 * N_HIDDEN, 4 * N_HIDDEN)
    # A gate has no slope where its net input is far from zero.
    weights["bias"][:, forget], weights["bias"][:, output] = -800.0, 800.0
    one = probe(net, weights, None, TASK, batch())[0]
    for gate in ("forget", "output"):
        assert one.metrics[f"gradient/{gate}/horizon"] == 0
        assert one.metrics[f"gradient/{gate}/decay_rate"] == -math.inf
    # What is left is i g, and so the two that make it.
    assert one.metrics["gradient/input/horizon"] > 0
    pairs = zip(one.part_flow["input"], one.part_flow["candidate"], strict=True)
    assert one.error_flow == pytest.approx([math.hypot(i, g) for i, g in pairs], rel=1e-12)


def test_gate_names_are_those_of_the_blocks_of_the_net_input() -> None:
    """A block of the bias moves the activations of the gate that bears its name, and of no other."""
    cell, forget = Lstm(), 1
    drive = torch.zeros(1, 1, 1, 4, 2, dtype=torch.float64)
    drive[..., forget, :] = 3.0
    tape = cell.forward(
        {"recurrent": torch.zeros(1, 2, 8, dtype=torch.float64)}, Drive(parts=(drive.flatten(3),)), None
    )
    i, f, g, o = tape.gates.mean((0, 1, 2, 4)).tolist()
    assert dict(zip(cell.gate_names, (i, f, g, o), strict=True)) == pytest.approx(
        {"input": 0.5, "forget": 1 / (1 + math.exp(-3)), "candidate": 0.0, "output": 0.5}
    )


def test_probe_of_an_identity_rectifier_keeps_its_error_and_forgets_nothing() -> None:
    net = network("elman_rectifier")
    weights = init(net, n_members=1)
    weights["recurrent"] = torch.eye(N_HIDDEN, dtype=torch.float64)[None]
    weights["input"] = torch.zeros_like(weights["input"])
    weights["bias"] = torch.ones_like(weights["bias"])
    metrics = probe(net, weights, None, TASK, batch())[0].metrics
    # Sums over units may round, though every product is exact.
    assert metrics["gradient/decay_rate"] == pytest.approx(0, abs=1e-14)
    assert metrics["gradient/horizon"] == LENGTH - 1
    assert metrics["lyapunov/max"] == pytest.approx(0, abs=1e-14)
    assert metrics["bound/decay_rate"] == pytest.approx(0, abs=1e-14)


def test_probe_of_a_cell_without_recurrent_weights_reports_none_of_theirs() -> None:
    net = network("min_gru")
    one = probe(net, init(net), None, TASK, batch())[0]
    assert not [name for name in one.metrics if name.startswith(("recurrent/", "bound/"))]
    assert list(one.part_flow) == ["update", "candidate", "state"]
    assert one.metrics["gradient/decay_rate"] < 0
