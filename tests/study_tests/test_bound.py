"""The bounds: their conditions in closed form, that one implies the other, and that no measurement crosses them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.dropout import Dropout
from models.fused import fuse
from models.network import Network
from study.seeds import stream
from study.training.bound import bound_columns
from study.training.probe import probe
from study_tests.probe_book import N_HIDDEN, TASK, batch, init, keep_of, network

ELMAN = ["elman_tanh", "elman_logistic", "elman_rectifier"]
SLOPE_MAX = {"elman_tanh": 1.0, "elman_logistic": 0.25, "elman_rectifier": 1.0}


def bounds(net: Network, recurrent: Tensor) -> dict[str, Tensor]:
    norm = torch.linalg.svdvals(recurrent).amax(-1)
    return bound_columns(net, recurrent.unsqueeze(1), norm)


@pytest.mark.parametrize("cell", ELMAN)
def test_bound_of_a_multiple_of_an_orthogonal_matrix(cell: str) -> None:
    net = network(cell)
    critical = 1 / SLOPE_MAX[cell]
    matrix = torch.linalg.qr(torch.randn(N_HIDDEN, N_HIDDEN, generator=stream(1, "q"), dtype=torch.float64)).Q
    found = bounds(net, critical * torch.tensor([0.9, 1.1], dtype=torch.float64)[:, None, None] * matrix)
    assert found["bound/vanishing"].tolist() == [1, 0]
    assert found["bound/exploding_possible"].tolist() == [0, 1]
    assert found["bound/decay_rate"].tolist() == pytest.approx([math.log(0.9), math.log(1.1)], rel=1e-12)


@pytest.mark.parametrize("cell", ELMAN)
def test_hochreiters_condition_is_sharp_for_equal_weights(cell: str) -> None:
    """A matrix whose entries are all w has the norm n |w|: there both conditions turn at the same weight."""
    net = network(cell)
    critical = 4 / N_HIDDEN if cell == "elman_logistic" else 1 / N_HIDDEN
    weights = critical * torch.tensor([-0.99, 0.99, 1.01], dtype=torch.float64)
    found = bounds(net, weights[:, None, None].expand(-1, N_HIDDEN, N_HIDDEN))
    assert found["bound/vanishing_by_weights"].tolist() == [1, 1, 0]
    assert found["bound/vanishing"].tolist() == [1, 1, 0]


def test_hochreiters_condition_implies_vanishing_but_not_the_other_way_round() -> None:
    net = network("elman_tanh")
    scale = torch.linspace(0.02, 1.0, 200, dtype=torch.float64)[:, None, None]
    uniform = torch.rand(200, N_HIDDEN, N_HIDDEN, generator=stream(2, "w"), dtype=torch.float64)
    found = bounds(net, scale * (2 * uniform - 1))
    by_weights, by_norm = found["bound/vanishing_by_weights"] == 1, found["bound/vanishing"] == 1
    assert not (by_weights & ~by_norm).any()
    assert by_weights.any()
    assert (by_norm & ~by_weights).any()


@pytest.mark.parametrize("cell", ELMAN)
@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_measured_decay_rate_never_exceeds_the_bound(cell: str, scale: float, seed: int) -> None:
    net = network(cell)
    for one in probe(net, init(net, scale=scale, seed=seed), None, TASK, batch(40)):
        # The regression's sums round at 1e-15 a term.
        assert one.metrics["gradient/decay_rate"] <= one.metrics["bound/decay_rate"] + 1e-12
        assert one.metrics["bound/decay_rate"] == pytest.approx(
            math.log(SLOPE_MAX[cell] * one.metrics["recurrent/largest_singular_value"]), rel=1e-12
        )


def test_bound_of_a_chain_is_that_of_its_widest_layer_on_the_errors_way() -> None:
    net, n_layers = network("untied_tanh"), 13
    scale = torch.linspace(0.5, 1.1, n_layers, dtype=torch.float64)
    # Errors pass all layers but the first, here the widest.
    scale[0] = 7.0
    weights = init(net) | {"recurrent": scale[:, None, None] * torch.eye(N_HIDDEN).double().repeat(2, n_layers, 1, 1)}
    metrics = probe(net, weights, None, TASK, batch(n_layers))[0].metrics
    assert metrics["recurrent/largest_singular_value"] == pytest.approx(1.1)
    assert metrics["bound/decay_rate"] == pytest.approx(math.log(1.1))
    assert (metrics["bound/vanishing"], metrics["bound/exploding_possible"]) == (0, 1)
    assert metrics["gradient/decay_rate"] <= metrics["bound/decay_rate"]
    assert "recurrent/spectral_radius" not in metrics
    # Shorter sequences do not meet the layers before their first one either.
    short = probe(net, weights, None, TASK, batch(10))[0].metrics
    assert short["recurrent/largest_singular_value"] == pytest.approx(1.1)
    weights["recurrent"][:, 4:] *= 0.5
    assert probe(net, weights, None, TASK, batch(10))[0].metrics["bound/vanishing"] == 1


@pytest.mark.parametrize(
    ("cell", "dropout"), [("lstm", Dropout.NONE), ("gru", Dropout.NONE), ("elman_tanh", Dropout.FAST)]
)
def test_cells_whose_error_has_other_ways_have_no_bound(cell: str, dropout: Dropout) -> None:
    net = network(cell, dropout)
    metrics = probe(net, init(net), keep_of(net), TASK, batch())[0].metrics
    assert not [name for name in metrics if name.startswith("bound/")]


def test_bound_of_a_fused_cell_is_that_of_the_cell() -> None:
    net = network("elman_logistic")
    fused = Network(cell=fuse(net.cell), dropout=net.dropout, n_in=net.n_in, n_hidden=N_HIDDEN, n_out=net.n_out)
    recurrent = init(net)["recurrent"]
    assert {k: v.tolist() for k, v in bounds(fused, recurrent).items()} == {
        k: v.tolist() for k, v in bounds(net, recurrent).items()
    }


def test_bound_of_a_diverged_member_is_no_number() -> None:
    net = network("elman_tanh")
    weights = init(net)
    weights["recurrent"][0, 0, 0] = math.nan
    broken, sound = probe(net, weights, None, TASK, batch())
    for name in ("decay_rate", "vanishing", "exploding_possible", "vanishing_by_weights"):
        assert math.isnan(broken.metrics[f"bound/{name}"])
        assert not math.isnan(sound.metrics[f"bound/{name}"])
