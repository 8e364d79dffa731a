"""What a probe tells of the recurrent matrices themselves."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from study.seeds import stream
from study.training.probe import by_parts, probe
from study_tests.probe_book import N_HIDDEN, TASK, batch, init, network


@pytest.mark.parametrize(("cell", "candidate"), [("lstm", 2), ("lstm_1997", 1), ("gru", 2)])
def test_probe_tells_the_norm_and_radius_of_the_candidates_matrix(cell: str, candidate: int) -> None:
    net = network(cell)
    weights = init(net)
    for gate in range(net.cell.n_gates):
        # Of such a matrix the radius is the larger entry of the diagonal, and the norm is more.
        block = torch.zeros(N_HIDDEN, N_HIDDEN, dtype=torch.float64)
        block[0, 0], block[1, 1], block[0, 1] = 0.1 * (gate + 1), 0.05, 2.0
        weights["recurrent"][:, :, gate * N_HIDDEN : (gate + 1) * N_HIDDEN] = block
    found = probe(net, weights, None, TASK, batch())[1].metrics
    assert found["recurrent/spectral_radius"] == pytest.approx(0.1 * (candidate + 1))
    norm = torch.linalg.svdvals(torch.tensor([[0.1 * (candidate + 1), 2.0], [0, 0.05]], dtype=torch.float64))[0]
    assert found["recurrent/largest_singular_value"] == pytest.approx(float(norm))


@pytest.mark.parametrize("n_parts", [2, 3, 16])
def test_matrices_are_measured_alike_in_any_number_of_parts(n_parts: int) -> None:
    matrices = torch.randn(7, 2, N_HIDDEN, N_HIDDEN, generator=stream(1, "matrices"))
    threads = set()

    def radius(part: Tensor) -> Tensor:
        threads.add(threading.get_ident())
        return torch.linalg.eigvals(part).abs().amax((1, 2))

    whole = by_parts(radius, matrices, 1)
    assert threads == {threading.get_ident()}
    assert torch.equal(by_parts(radius, matrices, n_parts), whole)
    assert len(threads) > 1
