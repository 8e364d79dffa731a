"""Tiles: blocks of numbers, of units and of rows of the batch, read, written and multiplied by one program."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load(start, rows, columns, n_rows, n_columns, row_stride, column_stride):
    """Elements ``start[row * row_stride + column * column_stride]``, zero outside of ``n_rows`` by ``n_columns``."""
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    return tl.load(start + rows[:, None] * row_stride + columns[None, :] * column_stride, mask=inside, other=0.0)


@triton.jit
def store(start, rows, columns, n_rows, n_columns, row_stride, column_stride, tile):
    """The counterpart of ``load``; nothing is written outside."""
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    tl.store(start + rows[:, None] * row_stride + columns[None, :] * column_stride, tile, mask=inside)


@triton.jit
def selected(drive, codes, code_stride, n_choices, k, t, rows, n_steps, n_batch, width, GATHERED: tl.constexpr):
    """Where the drive of the sequences in these rows stands at step t: a start, each row's place, and their bound.

    Rows are ``width`` wide. They are those of a member's table that ``codes`` select, or have each a place of its own.
    """
    if GATHERED:
        places = tl.load(codes + k * code_stride + t * n_batch + rows, mask=rows < n_batch, other=0)
        return drive + k * n_choices * width, places, n_choices
    else:
        return drive + (k * n_steps + t) * n_batch * width, rows, n_batch


@triton.jit
def following(at, stride, first, end):
    """Where the step after the one at ``at`` stands on a tape from ``first`` to ``end``; places are taken in turn."""
    return tl.where(at + stride < end, at + stride, first)


@triton.jit
def preceding(at, stride, first, end):
    """The counterpart of ``following``.

    It is not carried from step to step beside the place itself: where both begin as the same value, Triton takes the
    one that becomes the other's old value for one that never changes.
    """
    return tl.where(at > first, at, end) - stride


@triton.jit
def within(tile, real, n_units, WIDTH: tl.constexpr):
    """The tile with zeros for units that are not real: what stands there could be infinite or NaN."""
    if n_units % WIDTH == 0:
        return tile
    else:
        return tl.where(real, tile, 0.0)


@triton.jit
def weights(kept, start, rows, columns, size, row_stride, column_stride, BLOCKS: tl.constexpr):
    """The tile of a matrix for these rows and columns: ``kept`` where one block is all of it, else read again."""
    if BLOCKS == 1:
        return kept
    else:
        return load(start, rows, columns, size, size, row_stride, column_stride)


@triton.jit
def dot(left, right, total):
    """``total + left @ right`` on tensor cores; three products of half the digits each give single precision.

    Digits are cut off, where Triton's own "tf32x3" rounds, so that both parts have the number's sign: where a product
    overflows, its parts do not overflow to infinities of both signs.
    """
    if total.dtype == tl.float32:
        left_high, left_low = digits(left)
        right_high, right_low = digits(right)
        total = tl.dot(left_low, right_high, total, input_precision="tf32")
        total = tl.dot(left_high, right_low, total, input_precision="tf32")
        return tl.dot(left_high, right_high, total, input_precision="tf32")
    else:
        return tl.dot(left, right, total, input_precision="ieee", out_dtype=total.dtype)


@triton.jit
def digits(tile):
    """The leading binary digits of single precision, as many as tensor cores read, and the digits behind them."""
    high = (tile.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    low = tile - high
    # Infinity has no digits behind: its difference from itself is not a number.
    return high, tl.where(low == low, low, 0.0)


@triton.jit
def reach(window, k, n_read, n_steps, TRUNCATED: tl.constexpr):
    """Steps of a member's windows, and how many of the last steps errors reach; see ``models.truncation.reach``."""
    if TRUNCATED:
        steps = tl.minimum(tl.load(window + k), n_steps).to(tl.int32)
        return steps, tl.minimum((n_read - 1) // steps * steps + steps, n_steps)
    else:
        return n_steps, n_steps
