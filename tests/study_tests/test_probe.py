"""The probe: error flow against autograd, the bounds and laws of the theory, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models import CELLS, FAST_CELLS
from models.drive import Drive
from models.network import Dropout, Keep, Network
from models.unroll import unroll_reference
from study.seeds import stream
from study.training.probe import error_flow, flow_metrics, lyapunov_exponent, probe
from tasks import TASKS, Batch

TASK = TASKS["temporal_order"]()
LENGTH, N_SEQUENCES, N_HIDDEN = 13, 5, 6


def network(cell: str, dropout: Dropout = Dropout.NONE) -> Network:
    cells = FAST_CELLS if dropout is Dropout.FAST else CELLS
    return Network(cell=cells[cell], dropout=dropout, n_in=TASK.n_in, n_hidden=N_HIDDEN, n_out=TASK.n_out)


def init(net: Network, n_members: int = 2, scale: float = 1.0) -> dict[str, Tensor]:
    members = [
        net.init(stream(3, k), init="gaussian", init_scale=scale, input_scale=1.0, forget_bias=1.0)
        for k in range(n_members)
    ]
    return {name: torch.stack([member[name] for member in members]) for name in net.shapes()}


def batch() -> Batch:
    return TASK.sample(stream(4, "probe"), N_SEQUENCES, LENGTH)


def kinds() -> list[tuple[str, Dropout]]:
    return [(cell, Dropout.NONE) for cell in CELLS] + [(cell, Dropout.FAST) for cell in FAST_CELLS]


@pytest.mark.parametrize(("cell", "dropout"), kinds())
def test_probe_error_flow_equals_autograds(cell: str, dropout: Dropout) -> None:
    net, data = network(cell, dropout), batch()
    weights = init(net)
    rates = torch.tensor([0.8, 0.6], dtype=torch.float64)
    keep = Keep(inputs=rates, recurrent=rates) if dropout is Dropout.FAST else None
    found = probe(net, weights, keep, TASK, data)
    drive, gain = net.drive(weights, data.inputs, keep)
    mean, *variance = drive.dense()
    mean.requires_grad_()
    hidden = unroll_reference(net.cell, net.recurrent(weights), Drive(parts=(mean, *variance)), gain, 1)
    output = hidden @ weights["readout"].unsqueeze(1) + weights["readout_bias"][:, None, None]
    # The loss of one sequence is E; summing over sequences leaves each sequence's own error signals.
    (delta,) = torch.autograd.grad(TASK.loss(data, output).sum() * N_SEQUENCES, mean)
    expected = delta.square().sum(-1).mean(-1).sqrt().flip(1)
    for k in range(2):
        torch.testing.assert_close(
            torch.tensor(found[k].error_flow, dtype=torch.float64), expected[k, 1:], rtol=1e-10, atol=1e-14
        )


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


def test_error_flow_is_the_root_mean_square_of_norms_from_the_last_step_back() -> None:
    delta = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    assert error_flow(delta)[0].tolist() == pytest.approx([1.0, math.sqrt(25 / 2)])


def test_flow_metrics_recover_an_exponential() -> None:
    found = flow_metrics([2.0 * math.exp(-0.25 * k) for k in range(1, 60)], "gradient")
    assert found["gradient/decay_rate"] == pytest.approx(-0.25, rel=1e-9)
    assert found["gradient/half_life"] == pytest.approx(math.log(2) / 0.25, rel=1e-9)
    # exp(-0.25 (k - 1)) >= 1e-3 holds up to k = 1 + floor(4 ln 1000) = 28.
    assert found["gradient/horizon"] == 28


def test_flow_metrics_of_growing_and_dead_flows() -> None:
    growing = flow_metrics([1.0, 2.0, 4.0], "g")
    assert growing["g/decay_rate"] == pytest.approx(math.log(2))
    assert growing["g/half_life"] == math.inf
    assert growing["g/horizon"] == 3
    dead = flow_metrics([0.0, 0.0], "g")
    assert (dead["g/decay_rate"], dead["g/half_life"], dead["g/horizon"]) == (-math.inf, 0.0, 0)


def test_lyapunov_exponent_is_the_logarithm_of_an_orthogonal_rectifiers_gain() -> None:
    net = network("elman_rectifier")
    weights = init(net, n_members=1)
    # With all units active the Jacobian is 0.9 times the identity, at every step.
    weights["recurrent"] = 0.9 * torch.eye(N_HIDDEN, dtype=torch.float64).unsqueeze(0)
    weights["input"] = torch.ones_like(weights["input"])
    drive, _ = net.drive(weights, batch().inputs, None)
    found = lyapunov_exponent(net, weights, None, net.cell.forward(net.recurrent(weights), drive, None))
    assert found.item() == pytest.approx(math.log(0.9), rel=1e-12)


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


def test_probe_of_a_diverged_member_leaves_the_other_alone() -> None:
    net = network("elman_tanh")
    weights = init(net)
    sound = probe(net, {name: tensor[1:] for name, tensor in weights.items()}, None, TASK, batch())[0]
    weights["recurrent"][0, 0, 0] = math.nan
    broken = probe(net, weights, None, TASK, batch())
    assert math.isnan(broken[0].metrics["recurrent/spectral_radius"])
    assert broken[1].error_flow == pytest.approx(sound.error_flow, rel=1e-12)


def test_probe_of_lstm_also_follows_the_carousel() -> None:
    net = network("lstm")
    metrics = probe(net, init(net), None, TASK, batch())[0].metrics
    assert metrics["gradient/carousel/decay_rate"] > metrics["gradient/decay_rate"] - 1
    assert "gradient/carousel/half_life" in metrics
