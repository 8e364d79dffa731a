"""What a probe tells of the recurrent matrices themselves."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from study.seeds import stream
from study.training.probe import _norm, _radius, of_each, probe
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


@pytest.mark.parametrize("n_threads", [2, 3, 16])
def test_a_members_matrices_are_measured_alike_in_any_company(n_threads: int) -> None:
    # Of 7 x 7 numbers most matrices of a stack begin in the middle of a vector.
    matrices = torch.randn(11, 2, 7, 7, generator=stream(1, "matrices"))
    for measure in (_norm, _radius):
        alone = of_each(measure, matrices, 1)
        assert torch.equal(of_each(measure, matrices, n_threads), alone)
        assert torch.equal(of_each(measure, matrices[3:].flip(0), n_threads).flip(0), alone[3:])


def test_so_many_members_are_measured_at_a_time() -> None:
    together = threading.Barrier(3, timeout=20)

    def measure(member: Tensor) -> Tensor:
        together.wait()
        return member.sum((1, 2))

    matrices = torch.ones(6, 2, 2)
    assert of_each(measure, matrices, 3).tolist() == [4.0] * 6
