"""Elman's recurrence through a whole sequence, for a GPU; its units may leak, its steps may have their own weights."""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.gpu.nonlinearity import function, slope
from models.kernels.gpu.tile import dot, load, reach, store, weights


@triton.jit(do_not_specialize=["n_matrices", "n_steps", "n_batch"])
def forward(
    drive,
    matrix,
    mask,
    retention,
    states,
    units,
    n_matrices,
    n_steps,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    KIND: tl.constexpr,
    MASKED: tl.constexpr,
    LEAKY: tl.constexpr,
    UNTIED: tl.constexpr,
):
    """See ``models.kernels.Kernels.elman_forward``, ``untied_forward`` and ``leaky_forward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    matrix += k * n_matrices * HIDDEN * HIDDEN
    kept = load(matrix, lanes, lanes, HIDDEN, HIDDEN, HIDDEN, 1)
    for t in range(n_steps):
        if UNTIED:
            own = matrix + (n_matrices - n_steps + t) * HIDDEN * HIDDEN
            kept = load(own, lanes, lanes, HIDDEN, HIDDEN, HIDDEN, 1)
        else:
            own = matrix
        at = (k * n_steps + t) * n_batch * HIDDEN
        # Zeros stand for the state before the first step; they, too, are multiplied, as weights may be infinite.
        n_before = n_batch if t > 0 else 0
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            net = load(drive + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                hidden = load(states + at - n_batch * HIDDEN, rows, inner, n_before, HIDDEN, HIDDEN, 1)
                if MASKED:
                    hidden *= load(mask + at, rows, inner, n_batch, HIDDEN, HIDDEN, 1)
                net = dot(hidden, weights(kept, own, inner, columns, HIDDEN, HIDDEN, 1, BLOCKS), net)
            hidden = function(net, KIND)
            if LEAKY:
                store(units + at, rows, columns, n_batch, HIDDEN, HIDDEN, hidden)
                share = load(retention + k * HIDDEN, rows, columns, n_batch, HIDDEN, 0, 1)
                before = load(states + at - n_batch * HIDDEN, rows, columns, n_before, HIDDEN, HIDDEN, 1)
                hidden = share * before + (1 - share) * hidden
            store(states + at, rows, columns, n_batch, HIDDEN, HIDDEN, hidden)
        # What some threads wrote others read at the next step.
        tl.debug_barrier()


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
    kept = load(matrix, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
    stride = n_batch * HIDDEN
    steps, n_reached = reach(window, k, n_read, n_steps, TRUNCATED)
    for step in range(n_reached):
        if UNTIED:
            # Of the following step; the last one has none, and reads any.
            own = matrix + (n_matrices - tl.maximum(step, 1)) * HIDDEN * HIDDEN
            kept = load(own, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
        else:
            own = matrix
        at = (k * n_steps + n_steps - 1 - step) * stride
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            if not LEAKY:
                unit = load(units + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            arriving = tl.full((ROWS, WIDTH), 0.0, units.dtype.element_ty)
            if step % steps > 0:
                for other in range(BLOCKS):
                    inner = other * WIDTH + lanes
                    later = load(delta + at + stride, rows, inner, n_batch, HIDDEN, HIDDEN, 1)
                    arriving = dot(later, weights(kept, own, inner, columns, HIDDEN, 1, HIDDEN, BLOCKS), arriving)
                if MASKED:
                    arriving *= load(mask + at + stride, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            if step < n_read:
                read_at = (k * n_read + n_read - 1 - step) * stride
                arriving += load(cotangent + read_at, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            if LEAKY:
                share = load(retention + k * HIDDEN, rows, columns, n_batch, HIDDEN, 0, 1)
                if step % steps > 0:
                    arriving += load(d_kept + k * stride, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
                store(d_kept + k * stride, rows, columns, n_batch, HIDDEN, HIDDEN, share * arriving)
                arriving *= 1 - share
                # Not before the products: with it there would not be registers enough for them.
                unit = load(units + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            store(delta + at, rows, columns, n_batch, HIDDEN, HIDDEN, arriving * slope(unit, KIND))
        tl.debug_barrier()
