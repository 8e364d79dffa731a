"""The gated recurrent unit through a whole sequence, for a GPU; blocks r, z, n as in ``models.gru``."""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.gpu.launch import Parting
from models.kernels.gpu.nonlinearity import logistic, tanh
from models.kernels.gpu.tile import dot, following, load, preceding, reach, selected, store, weights, within

FORWARD = Parting(n_units=64, n_rows=16, n_warps=8)
BACKWARD = Parting(n_units=64, n_rows=16, n_warps=4)
"""The fastest on an H200 of 16 or 32 rows and 4 or 8 warps whose tiles fit into the registers."""


@triton.jit(do_not_specialize=["code_stride", "n_choices", "n_steps", "n_kept", "n_batch"])
def forward(
    drive,
    codes,
    code_stride,
    n_choices,
    n_steps,
    matrix,
    bias,
    mask,
    states,
    gates,
    reset,
    n_kept,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    GATHERED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """See ``models.kernels.Kernels.gru_forward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    GATES: tl.constexpr = 3 * HIDDEN
    to_r = matrix + k * HIDDEN * GATES
    to_z, to_q = to_r + HIDDEN * HIDDEN, to_r + 2 * HIDDEN * HIDDEN
    kept_r = load(to_r, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
    kept_z = load(to_z, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
    kept_q = load(to_q, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
    stride = n_batch * HIDDEN
    # Zeros stand for the state before the first step; they, too, are multiplied, as weights may be infinite.
    hidden = tl.full((ROWS, WIDTH), 0.0, states.dtype.element_ty)
    first, end = k * n_kept * stride, (k + 1) * n_kept * stride
    at = first
    for t in range(n_steps):
        gates_t = gates + 3 * at
        n_before = n_batch if t > 0 else 0
        earlier = preceding(at, stride, first, end)
        start, places, bound = selected(
            drive, codes, code_stride, n_choices, k, t, rows, n_steps, n_batch, GATES, GATHERED
        )
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            real = (columns < HIDDEN)[None, :]
            r = load(start, places, columns, bound, HIDDEN, GATES, 1)
            z = load(start + HIDDEN, places, columns, bound, HIDDEN, GATES, 1)
            n = load(start + 2 * HIDDEN, places, columns, bound, HIDDEN, GATES, 1)
            # All rows have the same bias: a row stride of zero.
            q = load(bias + k * HIDDEN, rows, columns, n_batch, HIDDEN, 0, 1)
            before = hidden
            if BLOCKS > 1:
                before = load(states + earlier, rows, columns, n_before, HIDDEN, HIDDEN, 1)
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                if BLOCKS > 1:
                    hidden = load(states + earlier, rows, inner, n_before, HIDDEN, HIDDEN, 1)
                if MASKED:
                    hidden *= load(mask + (k * n_steps + t) * stride, rows, inner, n_batch, HIDDEN, HIDDEN, 1)
                r = dot(hidden, weights(kept_r, to_r, inner, columns, HIDDEN, 1, HIDDEN, BLOCKS), r)
                z = dot(hidden, weights(kept_z, to_z, inner, columns, HIDDEN, 1, HIDDEN, BLOCKS), z)
                q = dot(hidden, weights(kept_q, to_q, inner, columns, HIDDEN, 1, HIDDEN, BLOCKS), q)
            r, z = logistic(r), logistic(z)
            n = tanh(n + r * q)
            hidden = within(n + z * (before - n), real, HIDDEN, WIDTH)
            store(gates_t, rows, columns, n_batch, HIDDEN, GATES, 1, r)
            store(gates_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, z)
            store(gates_t + 2 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, n)
            store(reset + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1, q)
            store(states + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1, hidden)
        if BLOCKS > 1:
            # What some threads wrote others read at the next step.
            tl.debug_barrier()
        at = following(at, stride, first, end)


@triton.jit(do_not_specialize=["n_steps", "n_batch", "n_read"])
def backward(
    states,
    gates,
    reset,
    matrix,
    mask,
    cotangent,
    window,
    delta,
    d_reset,
    carried,
    n_read,
    n_steps,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    MASKED: tl.constexpr,
    TRUNCATED: tl.constexpr,
):
    """See ``models.kernels.Kernels.gru_backward``; ``carried`` ``[K, B, H]`` is room for ``z_t dE/dh_t``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    GATES: tl.constexpr = 3 * HIDDEN
    from_r = matrix + k * HIDDEN * GATES
    from_z, from_q = from_r + HIDDEN, from_r + 2 * HIDDEN
    kept_r = load(from_r, lanes, lanes, HIDDEN, HIDDEN, 1, GATES)
    kept_z = load(from_z, lanes, lanes, HIDDEN, HIDDEN, 1, GATES)
    kept_q = load(from_q, lanes, lanes, HIDDEN, HIDDEN, 1, GATES)
    stride = n_batch * HIDDEN
    carried += k * stride
    steps, n_reached = reach(window, k, n_read, n_steps, TRUNCATED)
    d_r = tl.full((ROWS, WIDTH), 0.0, states.dtype.element_ty)
    d_z, d_q, d_before = d_r, d_r, d_r
    for step in range(n_reached):
        t = n_steps - 1 - step
        at = (k * n_steps + t) * stride
        continued = step % steps > 0
        n_later, n_before = n_batch if step > 0 else 0, n_batch if t > 0 else 0
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            real = (columns < HIDDEN)[None, :]
            d_hidden = tl.full((ROWS, WIDTH), 0.0, states.dtype.element_ty)
            later = delta + 3 * (at + stride)
            # At all steps, so that matrices are split into digits once; what must not arrive is left out afterwards.
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                if BLOCKS > 1:
                    d_r = load(later, rows, inner, n_later, HIDDEN, GATES, 1)
                    d_z = load(later + HIDDEN, rows, inner, n_later, HIDDEN, GATES, 1)
                    d_q = load(d_reset + at + stride, rows, inner, n_later, HIDDEN, HIDDEN, 1)
                d_hidden = dot(d_r, weights(kept_r, from_r, inner, columns, HIDDEN, 1, GATES, BLOCKS), d_hidden)
                d_hidden = dot(d_z, weights(kept_z, from_z, inner, columns, HIDDEN, 1, GATES, BLOCKS), d_hidden)
                d_hidden = dot(d_q, weights(kept_q, from_q, inner, columns, HIDDEN, 1, GATES, BLOCKS), d_hidden)
            if MASKED:
                d_hidden *= load(mask + at + stride, rows, columns, n_later, HIDDEN, HIDDEN, 1)
            if BLOCKS > 1:
                d_before = load(carried, rows, columns, n_later, HIDDEN, HIDDEN, 1)
            d_hidden = tl.where(continued, d_hidden + d_before, 0.0)
            if step < n_read:
                read_at = (k * n_read + n_read - 1 - step) * stride
                d_hidden += load(cotangent + read_at, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            gates_t, delta_t = gates + 3 * at, delta + 3 * at
            r = load(gates_t, rows, columns, n_batch, HIDDEN, GATES, 1)
            z = load(gates_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1)
            n = load(gates_t + 2 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1)
            q = load(reset + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            before = load(states + at - stride, rows, columns, n_before, HIDDEN, HIDDEN, 1)
            d_n = d_hidden * (1.0 - z) * (1.0 - n * n)
            d_r = within(d_n * q * r * (1.0 - r), real, HIDDEN, WIDTH)
            d_z = within(d_hidden * (before - n) * z * (1.0 - z), real, HIDDEN, WIDTH)
            d_q = within(d_n * r, real, HIDDEN, WIDTH)
            d_before = d_hidden * z
            store(delta_t, rows, columns, n_batch, HIDDEN, GATES, 1, d_r)
            store(delta_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, d_z)
            store(delta_t + 2 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, d_n)
            store(d_reset + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1, d_q)
            if BLOCKS > 1:
                store(carried, rows, columns, n_batch, HIDDEN, HIDDEN, 1, d_before)
        if BLOCKS > 1:
            tl.debug_barrier()
