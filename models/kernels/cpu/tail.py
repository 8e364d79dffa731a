"""The few columns of a product that do not fill a vector, each summed with vectors along the sum instead.

Of 50 columns 48 are three vectors of 16; the last two would cost as much as another sixteen.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.vectors import VECTOR_BYTES, check_flat, constant, load, padded, pointer

MOST = 4
"""Columns that are summed singly at most."""

TURNED = 32
"""Length of sums from which on it pays to turn a few columns' round."""

REDUCTION = 6
"""What it costs to add up the items of a vector, in multiplications of vectors."""


@compiled
def n_single(n_columns, n, item_bytes):
    """How many of a product's columns are summed one by one, for sums of length n: 0 where whole vectors cost less."""
    lanes = VECTOR_BYTES // item_bytes
    over = n_columns % lanes
    # A single vector that remains would be a block of one row, which waits for its own sums.
    apart = over <= MOST and n_columns >= 2 * lanes and n >= lanes
    return over if apart and over * ((n + lanes - 1) // lanes + REDUCTION) < n else 0


@compiled
def n_single_outer(n_columns, n_rows, n, item_bytes):
    """How many columns of a sum of n outer products with that many rows are computed as rows instead."""
    lanes = VECTOR_BYTES // item_bytes
    over = n_columns % lanes
    apart = over <= MOST and n_columns >= 2 * lanes and n_rows >= 2 * lanes
    return over if apart and n >= TURNED else 0


@intrinsic(prefer_literal=True)
def _dots(
    typing_context,
    n_columns,
    left,
    left_at,
    left_step,
    columns,
    columns_at,
    columns_step,
    out,
    out_at,
    out_step,
    n_rows,
    n,
):
    """See ``dots``; ``n_columns`` is a literal."""
    check_flat(left, columns, out)
    n_sums, at = n_columns.literal_value, types.intp
    signature = types.void(n_columns, left, at, at, columns, at, at, out, at, at, at, at)

    def codegen(context, builder, _, values):
        item, size = context.get_value_type(left.dtype), left.dtype.bitwidth // 8
        lanes = VECTOR_BYTES // size
        vector = ir.VectorType(item, lanes)
        _, left_value, left_offset, step, columns_value, columns_offset, column, *of_out = values
        out_value, out_offset, length, rows, count = of_out
        lefts = pointer(context, builder, left, left_value, left_offset)
        weights = pointer(context, builder, columns, columns_value, columns_offset)
        outs = pointer(context, builder, out, out_value, out_offset)
        n_whole, rest = builder.udiv(count, constant(lanes)), builder.urem(count, constant(lanes))
        name = f"llvm.vector.reduce.fadd.v{lanes}f{8 * size}"
        add_up = cgutils.get_or_insert_function(builder.module, ir.FunctionType(item, [item, vector]), name)
        fresh = _last(builder, rest, lanes)

        def added(sums: list[Any], row_at: Any, at: Any, weights_at: Any) -> list[Any]:
            factor = load(builder, lefts, builder.add(row_at, at), vector, size)
            grown = []
            for c, one in enumerate(sums):
                place = builder.add(builder.mul(constant(c), column), weights_at)
                product = builder.fmul(factor, load(builder, weights, place, vector, size), flags=("contract",))
                grown.append(builder.fadd(one, product, flags=("contract",)))
            return grown

        with cgutils.for_range(builder, rows) as row:
            row_at, out_row = builder.mul(row.index, step), builder.mul(row.index, length)
            before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(loop)
            builder.position_at_end(loop)
            v, sums = builder.phi(ir.IntType(64)), [builder.phi(vector) for _ in range(n_sums)]
            place = builder.mul(v, constant(lanes))
            grown = added(sums, row_at, place, place)
            following = builder.add(v, constant(1))
            v.add_incoming(constant(0), before)
            v.add_incoming(following, loop)
            for one, more in zip(sums, grown, strict=True):
                one.add_incoming(ir.Constant(vector, [0.0] * lanes), before)
                one.add_incoming(more, loop)
            builder.cbranch(builder.icmp_signed("<", following, n_whole), loop, after)
            builder.position_at_end(after)
            whole = added(grown, row_at, builder.sub(count, constant(lanes)), builder.sub(column, constant(lanes)))
            for c, (one, more) in enumerate(zip(grown, whole, strict=True)):
                start = ir.Constant(item, 0.0)
                # What is not chosen may be no number. In which order a vector is added up is LLVM's to choose, once.
                total = builder.call(add_up, [start, builder.select(fresh, more, one)], fastmath=("reassoc",))
                builder.store(total, builder.gep(outs, [builder.add(out_row, constant(c))]))
        return context.get_dummy_value()

    return signature, codegen


def _last(builder: Any, n: Any, lanes: int) -> Any:
    """Whether each lane is one of the last n of a vector."""
    places = ir.VectorType(ir.IntType(64), lanes)
    single = builder.insert_element(ir.Constant(places, ir.Undefined), n, ir.Constant(ir.IntType(32), 0))
    first_lanes = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    spread = builder.shuffle_vector(single, ir.Constant(places, ir.Undefined), first_lanes)
    return builder.icmp_signed("<", ir.Constant(places, list(range(lanes - 1, -1, -1))), spread)


@compiled
def dots(n_columns, left, left_at, left_step, columns, columns_at, out, out_at, out_step, n_rows, n):
    """``out[r, c] = sum_i left[r, i] columns[c, i]`` for up to ``MOST`` columns.

    Args:
        n_columns: number of columns; nothing is done where it is 0.
        left: flat array that holds ``[n_rows, n]`` from ``left_at`` on, rows ``left_step`` items apart.
        left_at: see left.
        left_step: see left.
        columns: flat array that holds ``[n_columns, padded(n)]`` from ``columns_at`` on. The last vector of each, if n
            does not fill it, is that of the last items of a row, of which those that have come before do not count.
        columns_at: see columns.
        out: flat array that holds ``[n_rows, n_columns]`` from ``out_at`` on, rows ``out_step`` items apart, written.
        out_at: see out.
        out_step: see out.
        n_rows: number of rows.
        n: length of the sums, at least a vector.
    """
    step = padded(n, out.itemsize)
    if n_columns == 1:
        _dots(1, left, left_at, left_step, columns, columns_at, step, out, out_at, out_step, n_rows, n)
    elif n_columns == 2:
        _dots(2, left, left_at, left_step, columns, columns_at, step, out, out_at, out_step, n_rows, n)
    elif n_columns == 3:
        _dots(3, left, left_at, left_step, columns, columns_at, step, out, out_at, out_step, n_rows, n)
    elif n_columns == 4:
        _dots(4, left, left_at, left_step, columns, columns_at, step, out, out_at, out_step, n_rows, n)
