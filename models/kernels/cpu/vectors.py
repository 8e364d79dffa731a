"""Copies, sums and products of rows as vector instructions, whatever the rows' length.

LLVM takes a loop four vectors at a time and what remains in ever smaller pieces: of a short row that is most or all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from models.kernels.cpu.compiled import compiled

_FEATURES = llvm.get_host_cpu_features()

VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
"""Width of the machine's vector registers; 16 is what every x86-64 and ARM core has."""


@compiled
def padded(width, item_bytes):
    """The smallest whole number of vectors, in items, that holds ``width`` items."""
    lanes = VECTOR_BYTES // item_bytes
    return (width + lanes - 1) // lanes * lanes


def constant(value: int) -> Any:
    """A count or an offset in items, as LLVM's constant."""
    return ir.Constant(ir.IntType(64), value)


def check_flat(*arrays: types.Array) -> None:
    """Raise ``numba.errors.TypingError`` unless the arrays' items can be reached by their number, and are alike."""
    if any(one.ndim != 1 or one.layout != "C" or one.dtype != arrays[0].dtype for one in arrays):
        raise TypingError(f"arrays must be flat, without gaps and of one precision, but got {arrays}")


def pointer(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    """Where item ``at`` of a flat array lies."""
    return builder.gep(make_array(array)(context, builder, value).data, [at])


def load(builder: Any, base: Any, at: Any, kind: Any, alignment: int) -> Any:
    """The vector or number that begins ``at`` items after ``base``."""
    value = builder.load(builder.bitcast(builder.gep(base, [at]), kind.as_pointer()))
    value.align = alignment
    return value


def store(builder: Any, value: Any, base: Any, at: Any, alignment: int) -> None:
    """Write a vector or number ``at`` items after ``base``."""
    builder.store(value, builder.bitcast(builder.gep(base, [at]), value.type.as_pointer())).align = alignment


def _sweep(builder: Any, item: Any, size: int, n: Any, at_place: Callable[[Any, Any], Any], out: Any) -> None:
    """``out[i] = at_place(i)`` for i < n: with the widest vectors that n items fill, the last one overlapping.

    The last vector is computed before anything is written, so that ``out`` may be an operand.
    """
    end = builder.append_basic_block()
    for lanes in (VECTOR_BYTES // size, VECTOR_BYTES // size // 2):
        kind, step = ir.VectorType(item, lanes), constant(lanes)
        fits, too_few = builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed(">=", n, step), fits, too_few)
        builder.position_at_end(fits)
        tail = builder.sub(n, step)
        last = at_place(tail, kind)
        with cgutils.for_range_slice(builder, constant(0), tail, step, step.type) as (place, _):
            store(builder, at_place(place, kind), out, place, size)
        store(builder, last, out, tail, size)
        builder.branch(end)
        builder.position_at_end(too_few)
    with cgutils.for_range(builder, n) as loop:
        store(builder, at_place(loop.index, item), out, loop.index, size)
    builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def copy_row(typing_context, source, at, target, to, n):
    """``target[to + j] = source[at + j]`` for j < n, of flat arrays."""
    check_flat(source, target)

    def codegen(context, builder, _, values):
        item, size = context.get_value_type(source.dtype), source.dtype.bitwidth // 8
        source_value, source_at, target_value, target_at, count = values
        base = pointer(context, builder, source, source_value, source_at)
        out = pointer(context, builder, target, target_value, target_at)
        _sweep(builder, item, size, count, lambda place, kind: load(builder, base, place, kind, size), out)
        return context.get_dummy_value()

    place = types.intp
    return types.void(source, place, target, place, place), codegen


@intrinsic
def add_row(typing_context, left, left_at, right, right_at, out, out_at, n):
    """``out[out_at + j] = left[left_at + j] + right[right_at + j]`` for j < n; out may be an operand."""
    return _of_two_rows(left, right, out, ir.IRBuilder.fadd)


@intrinsic
def multiply_row(typing_context, left, left_at, right, right_at, out, out_at, n):
    """``out[out_at + j] = left[left_at + j] * right[right_at + j]`` for j < n; out may be an operand."""
    return _of_two_rows(left, right, out, ir.IRBuilder.fmul)


def _of_two_rows(left: types.Array, right: types.Array, out: types.Array, operation: Callable[..., Any]) -> Any:
    """Signature and code of an intrinsic for an operation of two operands on rows of flat arrays."""
    check_flat(left, right, out)

    def codegen(context, builder, _, values):
        item, size = context.get_value_type(out.dtype), out.dtype.bitwidth // 8
        left_value, first, right_value, second, out_value, third, count = values
        lefts = pointer(context, builder, left, left_value, first)
        rights = pointer(context, builder, right, right_value, second)

        def at_place(place: Any, kind: Any) -> Any:
            operands = (load(builder, base, place, kind, size) for base in (lefts, rights))
            return operation(builder, *operands)

        _sweep(builder, item, size, count, at_place, pointer(context, builder, out, out_value, third))
        return context.get_dummy_value()

    place = types.intp
    return types.void(left, place, right, place, out, place, place), codegen


@compiled
def copy_rows(source, at, step, target, to, target_step, n_rows, n):
    """Copy rows of n items, ``step`` apart in ``source`` and ``target_step`` apart in ``target``, both flat."""
    for r in range(n_rows):
        copy_row(source, at + r * step, target, to + r * target_step, n)


@compiled
def multiply_rows(source, at, step, target, to, target_step, n_rows, n):
    """Multiply rows of n items in ``target`` by those in ``source``, which lie as in ``copy_rows``."""
    for r in range(n_rows):
        place = to + r * target_step
        multiply_row(target, place, source, at + r * step, target, place, n)
