"""The recurrent matrix that stays orthogonal: closed forms, updates, and the error flow of a rotation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.autograd import grad

from models import CELLS
from models.cell import Cell
from models.drive import Drive
from models.fused import fuse
from models.unroll import unroll

LENGTH, N_SEQUENCES, N_HIDDEN = 12, 4, 7
CELL = CELLS["orthogonal_tanh"]
every_pass = pytest.mark.parametrize("cell", [CELL, fuse(CELL)], ids=["plain", "fused"])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def assert_orthogonal(matrix: Tensor | None) -> None:
    assert matrix is not None
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype).expand_as(matrix)
    torch.testing.assert_close(matrix.mT @ matrix, one, rtol=0, atol=1e-12)


def test_matrix_of_two_units_is_a_rotation_by_their_angle() -> None:
    # Below the diagonal nothing counts.
    skew = torch.tensor([[[5.0, 0.7], [3.0, -2.0]]], dtype=torch.float64)
    turned = torch.tensor([[math.cos(0.7), math.sin(0.7)], [-math.sin(0.7), math.cos(0.7)]], dtype=torch.float64)
    torch.testing.assert_close(CELL.matrix({"skew": skew}), turned[None], rtol=0, atol=1e-14)


@every_pass
def test_matrix_stays_orthogonal_over_updates(cell: Cell) -> None:
    skew, drive = normal(2, N_HIDDEN, N_HIDDEN, seed=0), normal(2, LENGTH, N_SEQUENCES, N_HIDDEN, seed=1)
    first = cell.matrix({"skew": skew})
    for n in range(50):
        skew = skew.detach().requires_grad_()
        read = unroll(cell, {"skew": skew}, Drive(parts=(drive,)), None, 1)
        (gradient,) = grad(read, skew, normal(2, 1, N_SEQUENCES, N_HIDDEN, seed=n))
        skew = skew - 0.3 * gradient
    matrix = cell.matrix({"skew": skew.detach()})
    assert_orthogonal(matrix)
    assert first is not None
    assert matrix is not None
    assert torch.linalg.matrix_norm(matrix - first).min() > 0.5
    assert (torch.linalg.det(matrix) > 0).all()


@every_pass
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_gradient_is_autograds_whatever_its_size(cell: Cell, scale: float) -> None:
    skew = normal(2, N_HIDDEN, N_HIDDEN, seed=3).requires_grad_()
    drive, cotangent = normal(2, LENGTH, N_SEQUENCES, N_HIDDEN, seed=4), normal(2, 1, N_SEQUENCES, N_HIDDEN, seed=5)
    # The exponential from eigenvalues, which for a normal matrix is as exact.
    values, vectors = torch.linalg.eigh(1j * (skew.triu(1) - skew.triu(1).mT))
    matrix = (vectors @ torch.diag_embed(torch.exp(-1j * values)) @ vectors.mH).real
    hidden = torch.zeros(2, N_SEQUENCES, N_HIDDEN, dtype=torch.float64)
    for t in range(LENGTH):
        hidden = torch.tanh(drive[:, t] + hidden @ matrix)
    read = unroll(cell, {"skew": skew}, Drive(parts=(drive,)), None, 1)
    torch.testing.assert_close(read[:, 0], hidden, rtol=1e-10, atol=1e-12)
    (expected,) = grad(hidden, skew, cotangent[:, 0])
    (found,) = grad(read, skew, scale * cotangent)
    torch.testing.assert_close(found / scale, expected, rtol=1e-9, atol=1e-11)


@every_pass
def test_errors_keep_their_norm_where_no_unit_bends(cell: Cell) -> None:
    drive = torch.zeros(1, 300, N_SEQUENCES, N_HIDDEN, dtype=torch.float64)
    weights = {"skew": normal(1, N_HIDDEN, N_HIDDEN, seed=6)}
    flow = cell.backward(
        weights, cell.forward(weights, Drive(parts=(drive,)), None), None, normal(1, 1, N_SEQUENCES, N_HIDDEN, seed=7)
    )
    norms = flow.net.norm(dim=-1)
    # 300 products, each off by 1e-15.
    torch.testing.assert_close(norms, norms[:, -1:].expand_as(norms), rtol=1e-12, atol=0)


@pytest.mark.parametrize("n_hidden", [1, 2, 7, 50])
def test_initial_turns_pairs_of_units(n_hidden: int) -> None:
    skew = CELL.initial(Generator().manual_seed(0), n_hidden)["skew"]
    matrix = CELL.matrix({"skew": skew[None]})
    assert_orthogonal(matrix)
    assert matrix is not None
    pairs = skew.count_nonzero()
    assert pairs == n_hidden // 2
    angles = skew[skew != 0]
    assert (angles.abs() <= math.pi).all()
    found = torch.linalg.eigvals(matrix[0]).angle().abs().sort().values
    expected = torch.cat((torch.zeros(n_hidden % 2, dtype=torch.float64), angles.abs().repeat(2))).sort().values
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
