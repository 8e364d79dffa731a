"""The product of a few rows of states and a matrix, blocked for vector registers."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.tail import dots, n_single, n_single_outer
from models.kernels.cpu.vectors import VECTOR_BYTES, check_flat, constant, copy_rows, load, padded, pointer, store

MOST_ROWS = {1: 4, 2: 6, 3: 4} | dict.fromkeys(range(4, 9), 1)
"""Rows that a block of the product has at most, by its vectors of columns, whose sums are held in registers.

Beside them are up to 3 for a row of the matrix and 1 for a state. A multiplication and addition takes four or five
cycles, and two begin in each, so that fewer sums than 8 wait for each other: a single row takes them from wider panels.
Matrices so narrow that one vector holds a row are small.
"""

PANEL_VECTORS, ROW_VECTORS = 3, max(MOST_ROWS)
"""Vectors of columns that a panel of the matrix has at most, for several rows and for a single one."""


@compiled
def count_panels(n_vectors, n_rows):
    """Panels of a matrix with so many vectors of columns, for the product with so many rows at a time."""
    most = ROW_VECTORS if n_rows == 1 else PANEL_VECTORS
    return (n_vectors + most - 1) // most


@compiled
def pack(matrix, at, row_step, column_step, n, n_columns, n_rows, packed):
    """Lay a matrix out as ``product`` reads it: in panels of columns, each one run through memory, padded with zeros.

    Rows that lie far apart, by a power of two above all, would push each other out of the first cache. Columns that are
    summed singly come last, as ``models.kernels.cpu.tail`` reads them.

    Args:
        matrix: flat array whose item ``at + i * row_step + j * column_step`` is in row i and column j.
        at: see matrix.
        row_step: see matrix.
        column_step: see matrix.
        n: number of rows.
        n_columns: number of columns.
        n_rows: number of rows that ``product`` will be given at a time: for a single one the panels are wider.
        packed: flat array of ``n * padded(n_columns)``, of which as much is written as ``product`` reads.
    """
    lanes, single = VECTOR_BYTES // packed.itemsize, n_single(n_columns, n, packed.itemsize)
    n_vectors = (n_columns - single + lanes - 1) // lanes
    n_panels = count_panels(n_vectors, n_rows)
    start = 0
    for panel in range(n_panels):
        end = n_vectors * (panel + 1) // n_panels
        width, used = (end - start) * lanes, min(end * lanes, n_columns) - start * lanes
        first, to = at + start * lanes * column_step, start * lanes * n
        if column_step == 1:
            copy_rows(matrix, first, row_step, packed, to, width, n, used)
        else:
            # Column by column, as a transposed matrix lies in memory: one that only a single step needs is in no cache.
            for j in range(used):
                for i in range(n):
                    packed[to + i * width + j] = matrix[first + j * column_step + i * row_step]
        for i in range(n):
            packed[to + i * width + used : to + (i + 1) * width] = 0
        start = end
    length, whole = padded(n, packed.itemsize), n // lanes * lanes
    for j in range(single):
        first, to = at + (n_vectors * lanes + j) * column_step, n_vectors * lanes * n + j * length
        packed[to + whole : to + length] = 0
        for i in range(n):
            packed[to + (i if i < whole else length - n + i)] = matrix[first + i * row_step]


@intrinsic(prefer_literal=True)
def _panel(
    typing_context,
    onto,
    n_vectors,
    left,
    left_at,
    left_step,
    item_step,
    right,
    right_at,
    right_step,
    out,
    out_at,
    width,
    n_rows,
    n,
):
    """``out[r, :] = sum_i left[r, i] right[i, :]`` for ``n_rows`` rows and a panel of the matrix, block by block.

    Added to what ``out`` holds where ``onto``, a literal, is true. The panel has 1 to ``ROW_VECTORS`` vectors.

    Written as LLVM instructions, because no loop optimiser keeps a block of sums in registers by itself. ``left_step``
    and ``item_step`` are the distances of rows and of items in a row of left, ``right_step`` and ``width`` those of
    rows of right and out, in items; ``n`` > 0 is the length of the sum.
    """
    check_flat(left, right, out)
    added, at = onto.literal_value, types.intp
    signature = types.void(onto, at, left, at, at, at, right, at, at, out, at, at, at, at)

    def codegen(context, builder, _, values):
        size = left.dtype.bitwidth // 8
        vector = ir.VectorType(context.get_value_type(left.dtype), VECTOR_BYTES // size)
        _, count, left_value, left_offset, step, item, right_value, right_offset, right_row, *of_out = values
        out_value, out_offset, length, rows, n_items = of_out
        lefts = pointer(context, builder, left, left_value, left_offset)
        rights = pointer(context, builder, right, right_value, right_offset)
        outs = pointer(context, builder, out, out_value, out_offset)
        done = builder.append_basic_block()
        widths = builder.switch(count, done)
        for n_wide, most in MOST_ROWS.items():
            widths.add_case(constant(n_wide), builder.append_basic_block())
            builder.position_at_end(widths.cases[-1][1])
            # As even as can be, for a block of few rows waits for its own sums.
            n_blocks = builder.udiv(builder.add(rows, constant(most - 1)), constant(most))
            with cgutils.for_range(builder, n_blocks) as block:
                first, end = (
                    builder.udiv(builder.mul(rows, number), n_blocks)
                    for number in (block.index, builder.add(block.index, constant(1)))
                )
                left_rows = builder.gep(lefts, [builder.mul(first, step)])
                out_rows = builder.gep(outs, [builder.mul(first, length)])
                after = builder.append_basic_block()
                heights = builder.switch(builder.sub(end, first), after)
                for n_high in range(1, most + 1):
                    heights.add_case(constant(n_high), builder.append_basic_block())
                    builder.position_at_end(heights.cases[-1][1])
                    operands = (left_rows, step, item, rights, right_row, out_rows, length, n_items)
                    _block(builder, vector, size, n_high, n_wide, added, *operands)
                    builder.branch(after)
                builder.position_at_end(after)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen


def _block(
    builder: Any,
    vector: Any,
    size: int,
    n_rows: int,
    n_vectors: int,
    added: bool,
    lefts: Any,
    step: Any,
    item: Any,
    rights: Any,
    right_row: Any,
    outs: Any,
    length: Any,
    n: Any,
) -> None:
    """The instructions for one block of ``_panel``, whose sums are held in registers."""
    lanes = vector.count

    def place(row: Any, v: int) -> Any:
        return builder.add(row, constant(v * lanes))

    block = [(r, v) for r in range(n_rows) for v in range(n_vectors)]
    starts = dict.fromkeys(block, ir.Constant(vector, [0.0] * lanes))
    if added:
        for r, v in block:
            starts[r, v] = load(builder, outs, place(builder.mul(constant(r), length), v), vector, size)
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)

    builder.position_at_end(loop)
    i = builder.phi(ir.IntType(64))
    i.add_incoming(constant(0), before)
    sums = {}
    for one in block:
        sums[one] = builder.phi(vector)
        sums[one].add_incoming(starts[one], before)
    row_of_right, item_of_left = builder.mul(i, right_row), builder.mul(i, item)
    factors = [load(builder, rights, place(row_of_right, v), vector, size) for v in range(n_vectors)]
    first_lanes = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    grown = {}
    for r in range(n_rows):
        factor = builder.load(builder.gep(lefts, [builder.add(builder.mul(constant(r), step), item_of_left)]))
        single = builder.insert_element(undefined, factor, ir.Constant(ir.IntType(32), 0))
        spread = builder.shuffle_vector(single, undefined, first_lanes)
        for v in range(n_vectors):
            product = builder.fmul(spread, factors[v], flags=("contract",))
            grown[r, v] = builder.fadd(sums[r, v], product, flags=("contract",))
    following = builder.add(i, constant(1))
    i.add_incoming(following, loop)
    for one in block:
        sums[one].add_incoming(grown[one], loop)
    builder.cbranch(builder.icmp_signed("<", following, n), loop, after)

    builder.position_at_end(after)
    for r, v in block:
        store(builder, grown[r, v], outs, place(builder.mul(constant(r), length), v), size)


@compiled
def product(left, left_at, left_step, packed, out, out_at, out_step, n_rows, n, n_columns):
    """``out = left @ right`` for rows of states and one matrix, in one thread.

    Every item of ``out`` is summed in the same order, however many rows there are.

    Args:
        left: flat array that holds ``[n_rows, n]`` from ``left_at`` on, rows ``left_step`` items apart.
        left_at: see left.
        left_step: see left.
        packed: ``right`` ``[n, n_columns]`` as ``pack`` lays it out for as many rows.
        out: flat array that holds ``[n_rows, padded(n_columns)]`` from ``out_at`` on, rows ``out_step`` items apart,
            written; columns beyond ``n_columns`` become zero times what is in left, or stay as they are.
        out_at: see out.
        out_step: see out.
        n_rows: number of rows.
        n: length of the sums, > 0.
        n_columns: number of columns.
    """
    lanes, single = VECTOR_BYTES // out.itemsize, n_single(n_columns, n, out.itemsize)
    n_vectors = (n_columns - single + lanes - 1) // lanes
    n_panels = count_panels(n_vectors, n_rows)
    start = 0
    # A panel of the matrix stays in the first cache while all rows pass.
    for panel in range(n_panels):
        end = n_vectors * (panel + 1) // n_panels
        b, c, step = start * lanes * n, out_at + start * lanes, (end - start) * lanes
        _panel(False, end - start, left, left_at, left_step, 1, packed, b, step, out, c, out_step, n_rows, n)
        start = end
    whole = n_vectors * lanes
    dots(single, left, left_at, left_step, packed, whole * n, out, out_at + whole, out_step, n_rows, n)


@compiled
def outer(left, left_at, left_step, right, right_at, right_step, n, out, n_rows, n_columns):
    """``out += left^T @ right``: sums over n rows of left and of right, in one thread.

    Args:
        left: flat array that holds ``[n, n_rows]`` from ``left_at`` on, rows ``left_step`` items apart.
        left_at: see left.
        left_step: see left.
        right: flat array that holds ``[n, padded(n_columns)]`` from ``right_at`` on, rows ``right_step`` items apart.
        right_at: see right.
        right_step: see right.
        n: length of the sums, > 0.
        out: flat array of ``[n_rows, padded(n_columns)]``.
        n_rows: number of rows of ``out``.
        n_columns: number of columns.
    """
    lanes, width = VECTOR_BYTES // out.itemsize, padded(n_columns, out.itemsize)
    single = n_single_outer(n_columns, n_rows, n, out.itemsize)
    n_vectors = (n_columns - single + lanes - 1) // lanes
    n_panels = (n_vectors + PANEL_VECTORS - 1) // PANEL_VECTORS
    start = 0
    for panel in range(n_panels):
        end = n_vectors * (panel + 1) // n_panels
        b, c = right_at + start * lanes, start * lanes
        _panel(True, end - start, left, left_at, 1, left_step, right, b, right_step, out, c, width, n_rows, n)
        start = end
    if single > 0:
        # Of few columns the transposed product fills vectors; the last two overlap those before them.
        whole, length = n_vectors * lanes, padded(n_rows, out.itemsize)
        turned, step = np.empty(single * length, out.dtype), 2 * lanes
        for start in range(0, n_rows, step):
            to = min(start, n_rows - step)
            at, b = right_at + whole, left_at + to
            _panel(False, 2, right, at, 1, right_step, left, b, left_step, turned, to, length, single, n)
        for i in range(n_rows):
            for j in range(single):
                out[i * width + whole + j] += turned[j * length + i]
