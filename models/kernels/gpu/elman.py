"""Elman's recurrence through a whole sequence, for a GPU; its units may leak, its steps may have their own weights.

Of as many units as one tile holds, the state stays in registers from step to step; more units meet in memory. Tiles are
units by rows: with the matrix as the left factor the warps of a Hopper multiply together. For gated cells, of whose
matrices there are more, rows by units are faster.
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.gpu.launch import Parting
from models.kernels.gpu.nonlinearity import function, slope
from models.kernels.gpu.tile import dot, following, load, preceding, reach, selected, store, weights, within

FORWARD = Parting(n_units=128, n_rows=16, n_warps=4)
BACKWARD = Parting(n_units=128, n_rows=32, n_warps=4)
"""The fastest on an H200 of 16 or 32 rows and 4 or 8 warps whose tiles fit into the registers."""

UNTIED = Parting(n_units=64, n_rows=16, n_warps=8)
"""Of both passes where every step has its own matrix, of which a wider tile would not fit into the registers."""


@triton.jit(do_not_specialize=["code_stride", "n_choices", "n_steps", "n_matrices", "n_kept", "n_batch"])
def forward(
    drive,
    codes,
    code_stride,
    n_choices,
    n_steps,
    matrix,
    mask,
    retention,
    states,
    units,
    n_matrices,
    n_kept,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    KIND: tl.constexpr,
    GATHERED: tl.constexpr,
    MASKED: tl.constexpr,
    LEAKY: tl.constexpr,
    UNTIED: tl.constexpr,
):
    """See ``models.kernels.Kernels.elman_forward``, ``untied_forward`` and ``leaky_forward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    matrix += k * n_matrices * HIDDEN * HIDDEN
    kept = load(matrix, lanes, lanes, HIDDEN, HIDDEN, HIDDEN, 1)
    stride = n_batch * HIDDEN
    # Zeros stand for the state before the first step; they, too, are multiplied, as weights may be infinite.
    hidden = tl.full((WIDTH, ROWS), 0.0, states.dtype.element_ty)
    first, end = k * n_kept * stride, (k + 1) * n_kept * stride
    at = first
    for t in range(n_steps):
        if UNTIED:
            own = matrix + (n_matrices - n_steps + t) * HIDDEN * HIDDEN
            kept = load(own, lanes, lanes, HIDDEN, HIDDEN, HIDDEN, 1)
        else:
            own = matrix
        n_before = n_batch if t > 0 else 0
        earlier = preceding(at, stride, first, end)
        start, places, bound = selected(
            drive, codes, code_stride, n_choices, k, t, rows, n_steps, n_batch, HIDDEN, GATHERED
        )
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            real = (columns < HIDDEN)[:, None]
            net = load(start, columns, places, HIDDEN, bound, 1, HIDDEN)
            before = hidden
            if LEAKY and BLOCKS > 1:
                before = load(states + earlier, columns, rows, HIDDEN, n_before, 1, HIDDEN)
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                if BLOCKS > 1:
                    hidden = load(states + earlier, inner, rows, HIDDEN, n_before, 1, HIDDEN)
                if MASKED:
                    hidden *= load(mask + (k * n_steps + t) * stride, inner, rows, HIDDEN, n_batch, 1, HIDDEN)
                net = dot(weights(kept, own, columns, inner, HIDDEN, HIDDEN, 1, BLOCKS), hidden, net)
            hidden = within(function(net, KIND), real, HIDDEN, WIDTH)
            if LEAKY:
                store(units + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, hidden)
                share = load(retention + k * HIDDEN, columns, rows, HIDDEN, n_batch, 1, 0)
                hidden = share * before + (1 - share) * hidden
            store(states + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, hidden)
        if BLOCKS > 1:
            # What some threads wrote others read at the next step.
            tl.debug_barrier()
        at = following(at, stride, first, end)


@triton.jit(do_not_specialize=["n_matrices", "n_steps", "n_batch", "n_read"])
def backward(
    units,
    matrix,
    mask,
    retention,
    cotangent,
    window,
    delta,
    d_kept,
    n_matrices,
    n_read,
    n_steps,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    KIND: tl.constexpr,
    MASKED: tl.constexpr,
    LEAKY: tl.constexpr,
    TRUNCATED: tl.constexpr,
    UNTIED: tl.constexpr,
):
    """See ``models.kernels.Kernels.elman_backward``, ``untied_backward`` and ``leaky_backward``.

    ``d_kept`` is room for ``[K, B, H]``.
    """
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    matrix += k * n_matrices * HIDDEN * HIDDEN
    kept = load(matrix, lanes, lanes, HIDDEN, HIDDEN, HIDDEN, 1)
    stride = n_batch * HIDDEN
    steps, n_reached = reach(window, k, n_read, n_steps, TRUNCATED)
    later = tl.full((WIDTH, ROWS), 0.0, units.dtype.element_ty)
    leaked = later
    for step in range(n_reached):
        if UNTIED:
            # Of the following step; the last one has none, and reads any.
            own = matrix + (n_matrices - tl.maximum(step, 1)) * HIDDEN * HIDDEN
            kept = load(own, lanes, lanes, HIDDEN, HIDDEN, HIDDEN, 1)
        else:
            own = matrix
        at = (k * n_steps + n_steps - 1 - step) * stride
        continued = step % steps > 0
        n_later = n_batch if step > 0 else 0
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            real = (columns < HIDDEN)[:, None]
            unit = load(units + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN)
            arriving = tl.full((WIDTH, ROWS), 0.0, units.dtype.element_ty)
            # At all steps, so that the matrix is split into digits once; what must not arrive is left out afterwards.
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                if BLOCKS > 1:
                    later = load(delta + at + stride, inner, rows, HIDDEN, n_later, 1, HIDDEN)
                arriving = dot(weights(kept, own, columns, inner, HIDDEN, HIDDEN, 1, BLOCKS), later, arriving)
            if MASKED:
                arriving *= load(mask + at + stride, columns, rows, HIDDEN, n_later, 1, HIDDEN)
            if LEAKY:
                if BLOCKS > 1:
                    leaked = load(d_kept + k * stride, columns, rows, HIDDEN, n_later, 1, HIDDEN)
                arriving += leaked
            arriving = tl.where(continued, arriving, 0.0)
            if step < n_read:
                read_at = (k * n_read + n_read - 1 - step) * stride
                arriving += load(cotangent + read_at, columns, rows, HIDDEN, n_batch, 1, HIDDEN)
            if LEAKY:
                share = load(retention + k * HIDDEN, columns, rows, HIDDEN, n_batch, 1, 0)
                leaked = share * arriving
                if BLOCKS > 1:
                    store(d_kept + k * stride, columns, rows, HIDDEN, n_batch, 1, HIDDEN, leaked)
                arriving *= 1 - share
            later = within(arriving * slope(unit, KIND), real, HIDDEN, WIDTH)
            store(delta + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, later)
        if BLOCKS > 1:
            tl.debug_barrier()
