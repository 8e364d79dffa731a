"""The product around a recurrence and its way back, compiled, against torch's in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.linear import linear, linear_back

K = 3

SIZES = [(1, 1), (2, 50), (5, 7), (16, 4), (24, 1), (50, 3), (50, 200), (88, 17), (257, 65)]
"""Lengths of a row and of what it is multiplied into."""

PLACES = [(1, 1), (1, 20), (13, 1), (13, 5), (13, 7), (3, 65), (2, 64), (0, 4), (4, 0)]
"""Steps and sequences."""

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def laid_out(tensor: Tensor, how: str) -> Tensor:
    """The same items, lying otherwise in memory."""
    if how == "apart":
        # As the last steps of a tape, and as the weights of members: further apart than they are long.
        return torch.cat((tensor, tensor), dim=1)[:, tensor.shape[1] :]
    if how == "turned":
        return tensor.mT.contiguous().mT
    if how == "swapped" and tensor.ndim == 4:
        # As data that lie sequence by sequence.
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    return tensor


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether all items are right in relation to the largest."""
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return found.shape == expected.shape and torch.allclose(
        found.double(), expected, rtol=0, atol=scale * TOLERANCE[found.dtype]
    )


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", ["together", "apart", "turned", "swapped"])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_the_product_and_its_gradients_are_those_of_double_precision(
    n: int, m: int, places: tuple[int, int], how: str, dtype: torch.dtype
) -> None:
    rows, matrix, bias, d_product = drawn(K, *places, n), drawn(K, n, m), drawn(K, m), drawn(K, *places, m)
    x, w, d = (laid_out(one.to(dtype), how) for one in (rows, matrix, d_product))
    product = torch.einsum("ktbn,knm->ktbm", rows, matrix)
    assert close(linear(x, w), product)
    assert close(linear(x, w, bias.to(dtype)), product + bias[:, None, None])
    shared = torch.einsum("tbn,knm->ktbm", rows[1], matrix)
    assert close(linear(x[1], w), shared)
    by_matrix, by_bias = linear_back(x, d)
    assert close(by_matrix, torch.einsum("ktbn,ktbm->knm", rows, d_product))
    assert close(by_bias, d_product.sum((1, 2)))
    assert close(linear_back(x[1], d)[0], torch.einsum("tbn,ktbm->knm", rows[1], d_product))


@torch.no_grad()
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_a_members_product_is_the_same_to_the_last_bit_whoever_else_there_is_and_in_however_many_threads(
    n: int, m: int
) -> None:
    rows, matrix, bias, d_product = (
        one.float() for one in (drawn(K, 3, 7, n), drawn(K, n, m), drawn(K, m), drawn(K, 3, 7, m))
    )
    together = (linear(rows, matrix, bias), *linear_back(rows, d_product))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        parted = (linear(rows, matrix, bias), *linear_back(rows, d_product))
    finally:
        torch.set_num_threads(before)
    for some in ([2], [0, 1]):
        alone = (linear(rows[some], matrix[some], bias[some]), *linear_back(rows[some], d_product[some]))
        for one, two, whole in zip(alone, parted, together, strict=True):
            assert torch.equal(one, whole[some])
            assert torch.equal(two, whole)


@torch.no_grad()
def test_numbers_that_are_not_finite_stay_in_their_rows_and_columns() -> None:
    rows, matrix = torch.ones(1, 1, 3, 5), torch.ones(1, 5, 7)
    rows[0, 0, 1, 2], matrix[0, 3, 6] = math.nan, math.inf
    product = linear(rows, matrix)[0, 0]
    assert product[1].isnan().all()
    assert product[0].tolist() == product[2].tolist() == [5.0] * 6 + [math.inf]


def test_where_autograd_watches_the_product_is_torchs() -> None:
    rows, matrix = drawn(K, 2, 3, 5), drawn(K, 5, 4).requires_grad_()
    linear(rows, matrix).sum().backward()
    expected, _ = linear_back(rows, torch.ones(K, 2, 3, 4, dtype=torch.float64))
    assert matrix.grad is not None
    torch.testing.assert_close(matrix.grad, expected)
