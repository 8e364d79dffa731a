"""Rows as vector instructions: every length, every offset, beside NumPy; nothing beyond a row is touched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numba.core.errors import TypingError

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.vectors import VECTOR_BYTES, add_row, copy_rows, multiply_row, multiply_rows

PRECISIONS = (np.float32, np.float64)

Operation = Callable[..., object]


@compiled
def _add(left, right, out, places, n):
    add_row(left, places[0], right, places[1], out, places[2], n)


@compiled
def _multiply(left, right, out, places, n):
    multiply_row(left, places[0], right, places[1], out, places[2], n)


OPERATIONS = ((_add, np.add), (_multiply, np.multiply))


def lengths(precision: type) -> range:
    """None, a scalar, and more than two of the widest vectors with every remainder."""
    return range(3 * VECTOR_BYTES // np.dtype(precision).itemsize)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("of_rows", "expected_of"), OPERATIONS)
def test_a_row_is_made_of_two_and_its_neighbours_stay(
    of_rows: Operation, expected_of: Operation, precision: type
) -> None:
    rng = np.random.default_rng(1)
    for n in lengths(precision):
        left, right, out = (rng.standard_normal(n + 20).astype(precision) for _ in range(3))
        expected = out.copy()
        expected[7 : 7 + n] = expected_of(left[3 : 3 + n], right[5 : 5 + n])
        of_rows(left, right, out, (3, 5, 7), n)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("of_rows", "expected_of"), OPERATIONS)
def test_an_operand_that_is_written_counts_every_item_once(
    of_rows: Operation, expected_of: Operation, precision: type
) -> None:
    rng = np.random.default_rng(2)
    for n in lengths(precision):
        total, row = (rng.standard_normal(n + 3).astype(precision) for _ in range(2))
        expected = total.copy()
        expected[3:] = expected_of(expected[3:], row[:n])
        of_rows(total, row, total, (3, 0, 3), n)
        assert np.array_equal(total, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_are_copied_or_multiplied_and_the_gaps_between_them_stay(precision: type) -> None:
    rng = np.random.default_rng(3)
    for n in lengths(precision):
        source = rng.standard_normal((5, n + 2)).astype(precision)
        target = rng.standard_normal((5, n + 4)).astype(precision)
        expected = target.copy()
        expected[:, 1 : 1 + n] = source[:, 2:]
        copy_rows(source.reshape(-1), 2, n + 2, target.reshape(-1), 1, n + 4, 5, n)
        assert np.array_equal(target, expected)
        source = rng.standard_normal((5, n + 2)).astype(precision)
        expected[:, 1 : 1 + n] *= source[:, 2:]
        multiply_rows(source.reshape(-1), 2, n + 2, target.reshape(-1), 1, n + 4, 5, n)
        assert np.array_equal(target, expected)


@pytest.mark.parametrize("other", [np.zeros(8), np.zeros((2, 4), np.float32), np.zeros(16, np.float32)[::2]])
def test_rows_of_another_precision_or_with_gaps_are_refused(other: np.ndarray) -> None:
    flat = np.zeros(8, np.float32)
    with pytest.raises(TypingError, match="flat, without gaps and of one precision"):
        _add(flat, other, flat, (0, 0, 0), 4)
    with pytest.raises(TypingError, match="flat, without gaps and of one precision"):
        copy_rows(other, 0, 4, flat, 0, 4, 2, 4)
