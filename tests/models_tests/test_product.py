"""The processor's blocked products against numpy's, where columns fill vectors and where a few are left over."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest

from models.kernels.cpu.product import outer, pack, product
from models.kernels.cpu.tail import n_single, n_single_outer
from models.kernels.cpu.vectors import VECTOR_BYTES, padded

LANES = VECTOR_BYTES // 4
"""Numbers of single precision in a vector."""

Array = np.ndarray[Any, np.dtype[Any]]


def _normal(dtype: type, *shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def _guarded(data: Array) -> Array:
    """A flat copy that ends where memory ends: whoever reads on is killed."""
    n_pages = -(-data.nbytes // mmap.PAGESIZE)
    pages = mmap.mmap(-1, (n_pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    # Of 0, no access.
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + n_pages * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    end = n_pages * mmap.PAGESIZE
    copy: Array = np.frombuffer(pages, data.dtype, data.size, end - data.nbytes)
    copy[:] = data.reshape(-1)
    return copy


def _product(left: Array, right: Array, *, transposed: bool = False) -> Array:
    """By ``product``, in arrays beyond whose ends nothing may be read."""
    (n_rows, n), n_columns = left.shape, right.shape[1]
    width = padded(n_columns, left.itemsize)
    packed = _guarded(np.full(n * width, np.nan, left.dtype))
    if transposed:
        pack(_guarded(right.T), 0, 1, n, n, n_columns, n_rows, packed)
    else:
        pack(_guarded(right), 0, n_columns, 1, n, n_columns, n_rows, packed)
    out = _guarded(np.zeros((n_rows, width), left.dtype))
    product(_guarded(left), 0, n, packed, out, 0, width, n_rows, n, n_columns)
    return out.reshape(n_rows, width)[:, :n_columns]


def _outer(left: Array, right: Array, onto: Array) -> Array:
    (n, n_rows), n_columns = left.shape, right.shape[1]
    width = padded(n_columns, left.itemsize)
    padding = ((0, 0), (0, width - n_columns))
    out, signals = _guarded(np.pad(onto, padding)), _guarded(np.pad(right, padding))
    outer(_guarded(left), 0, n_rows, signals, 0, width, n, out, n_rows, n_columns)
    return out.reshape(n_rows, width)[:, :n_columns]


COLUMNS = [1, 2, 5, 15, 16, 17, 18, 20, 21, 33, 48, 50, 51, 53, 64, 66, 100, 104]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 4e-15)])
@pytest.mark.parametrize("n_columns", COLUMNS)
def test_products_are_numpys(dtype: type, tolerance: float, n_columns: int) -> None:
    for n, n_rows in ((1, 3), (7, 1), (16, 5), (17, 20), (50, 40), (50, 1), (100, 7), (200, 13)):
        left, right, onto = (_normal(dtype, *shape) for shape in ((n_rows, n), (n, n_columns), (n, n_columns)))
        bound = tolerance * (abs(left.astype(float)) @ abs(right.astype(float)))
        exact = left.astype(float) @ right.astype(float)
        for transposed in (False, True):
            assert (abs(_product(left, right, transposed=transposed) - exact) <= bound).all()
        signals = _normal(dtype, n_rows, n_columns)
        exact = onto + left.T.astype(float) @ signals.astype(float)
        bound = tolerance * (abs(onto) + abs(left.T.astype(float)) @ abs(signals.astype(float)))
        assert (abs(_outer(left, signals, onto) - exact) <= bound).all()


def test_left_over_columns_are_summed_singly_where_that_is_less_work() -> None:
    full = 3 * LANES
    assert n_single(full + 2, 50, 4) == n_single_outer(full + 2, 50, 50, 4) == 2
    assert n_single(full, 50, 4) == n_single_outer(full, 50, 50, 4) == 0
    assert n_single(full + 2, LANES - 1, 4) == n_single_outer(full + 2, 2 * LANES - 1, 50, 4) == 0
    assert n_single(full + 2, 10, 4) == n_single_outer(full + 2, 50, 10, 4) == 0
    assert n_single(LANES + 2, 50, 4) == n_single_outer(LANES + 2, 50, 50, 4) == 0


@pytest.mark.parametrize("n_columns", [50, 64, 100])
def test_a_row_of_a_product_knows_nothing_of_the_others(n_columns: int) -> None:
    left, right = _normal(np.float32, 21, 50), _normal(np.float32, 50, n_columns)
    alone = np.concatenate([_product(row[None], right) for row in left])
    assert np.array_equal(_product(left, right), alone)
    left[::2] = np.inf
    left[3, 7] = np.nan
    found = _product(left, right)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(np.isfinite(found), np.isfinite(left @ right))
        # A single item that is infinite, at any place, leaves infinities and no NaN: -inf is 0 to a rectifier.
        for n in (48, 50):
            for place in range(n):
                spoiled = left[1:2, :n].copy()
                spoiled[0, place] = -np.inf
                assert np.array_equal(_product(spoiled, right[:n]), spoiled @ right[:n])
    sound = [row for row in range(1, 21, 2) if row != 3]
    assert np.array_equal(found[sound], alone[sound])
    # Sums over rows take in all of them; columns know nothing of each other.
    signals = _normal(np.float32, 21, n_columns)
    signals[4, 49] = np.nan
    summed = _outer(np.ascontiguousarray(_normal(np.float32, 21, 50)), signals, np.zeros((50, n_columns), np.float32))
    assert np.isnan(summed).all(axis=0).tolist() == [column == 49 for column in range(n_columns)]
