"""The products around a recurrence, of every member by itself: what a sum is rounded to hangs on nothing else.

BLAS rounds by how many members there are, and by where in memory they lie.
"""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.product import outer, pack, product
from models.kernels.cpu.vectors import add_row, copy_rows, padded

ROWS = 64
"""Rows that are computed, or laid out, at a time: they stay in the caches."""


@compiled
def products(rows, member, step, matrices, of_member, of_row, of_column, bias, n, out, first, last):
    """``x W + b`` of every row x, for members first to last.

    Args:
        rows: flat array of x, ``[K, T, B, n]``, members ``member`` items apart, 0 if all have the same, rows ``step``.
        member: see rows.
        step: see rows.
        matrices: flat array of W, ``[K, n, m]``, members, rows and columns so many items apart.
        of_member: see matrices.
        of_row: see matrices.
        of_column: see matrices.
        bias: b, ``[K, m]``, or empty.
        n: length of a row, > 0.
        out: ``[K, T, B, m]``, written.
        first: first member.
        last: one past the last member.
    """
    n_rows, n_columns = out.shape[1] * out.shape[2], out.shape[3]
    width, outs, biases = padded(n_columns, out.itemsize), out.reshape(-1), bias.reshape(-1)
    packed, sums = np.zeros(n * width, out.dtype), np.zeros(min(ROWS, n_rows) * width, out.dtype)
    # As even as can be, lest a single row be left of what is laid out for several.
    n_parts = (n_rows + ROWS - 1) // ROWS
    for k in range(first, last):
        pack(matrices, k * of_member, of_row, of_column, n, n_columns, n_rows, packed)
        for part in range(n_parts):
            start = n_rows * part // n_parts
            together, to = n_rows * (part + 1) // n_parts - start, (k * n_rows + start) * n_columns
            product(rows, k * member + start * step, step, packed, sums, 0, width, together, n, n_columns)
            if biases.size > 0:
                for r in range(together):
                    add_row(sums, r * width, biases, k * n_columns, outs, to + r * n_columns, n_columns)
            else:
                copy_rows(sums, 0, width, outs, to, n_columns, together, n_columns)


@compiled
def gradients(rows, member, step, d_products, of_member, of_row, n_rows, by_matrix, by_bias, first, last):
    """``sum x^T d`` and ``sum d`` over rows x and d, for members first to last.

    Args:
        rows: flat array of x, ``[K, T, B, n]``, members ``member`` items apart, 0 if all have the same, rows ``step``.
        member: see rows.
        step: see rows.
        d_products: flat array of d, ``[K, T, B, m]``, members and rows so many items apart.
        of_member: see d_products.
        of_row: see d_products.
        n_rows: T times B.
        by_matrix: ``[K, n, m]``, written.
        by_bias: ``[K, m]``, written.
        first: first member.
        last: one past the last member.
    """
    n, n_columns = by_matrix.shape[1:]
    width = padded(n_columns, by_matrix.itemsize)
    laid_out, total = np.zeros(min(ROWS, n_rows) * width, by_matrix.dtype), np.zeros(n * width, by_matrix.dtype)
    matrices, biases = by_matrix.reshape(-1), by_bias.reshape(-1)
    biases[first * n_columns : last * n_columns] = 0
    for k in range(first, last):
        total[:] = 0
        for start in range(0, n_rows, ROWS):
            together = min(ROWS, n_rows - start)
            copy_rows(d_products, k * of_member + start * of_row, of_row, laid_out, 0, width, together, n_columns)
            outer(rows, k * member + start * step, step, laid_out, 0, width, together, total, n, n_columns)
            for r in range(together):
                add_row(biases, k * n_columns, laid_out, r * width, biases, k * n_columns, n_columns)
        copy_rows(total, 0, width, matrices, k * n * n_columns, n_columns, n, n_columns)
