"""Long short-term memory through a whole sequence, for a GPU; blocks i, f, g, o as in ``models.lstm``."""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.gpu.launch import Parting
from models.kernels.gpu.nonlinearity import logistic, tanh
from models.kernels.gpu.tile import dot, following, load, preceding, reach, selected, store, weights, within

FORWARD = Parting(n_units=64, n_rows=16, n_warps=8)
BACKWARD = Parting(n_units=64, n_rows=32, n_warps=8)
"""The fastest on an H200 of 16 or 32 rows and 4 or 8 warps whose tiles fit into the registers."""


@triton.jit(do_not_specialize=["code_stride", "n_choices", "n_steps", "n_kept", "n_batch"])
def forward(
    drive,
    codes,
    code_stride,
    n_choices,
    n_steps,
    matrix,
    mask,
    states,
    gates,
    cells,
    n_kept,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    GATHERED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """See ``models.kernels.Kernels.lstm_forward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    GATES: tl.constexpr = 4 * HIDDEN
    to_i = matrix + k * HIDDEN * GATES
    to_f, to_g, to_o = to_i + HIDDEN * HIDDEN, to_i + 2 * HIDDEN * HIDDEN, to_i + 3 * HIDDEN * HIDDEN
    kept_i = load(to_i, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
    kept_f = load(to_f, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
    kept_g = load(to_g, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
    kept_o = load(to_o, lanes, lanes, HIDDEN, HIDDEN, 1, HIDDEN)
    stride = n_batch * HIDDEN
    # Zeros stand for the state before the first step; they, too, are multiplied, as weights may be infinite.
    hidden = tl.full((ROWS, WIDTH), 0.0, states.dtype.element_ty)
    cell = hidden
    first, end = k * n_kept * stride, (k + 1) * n_kept * stride
    at = first
    for t in range(n_steps):
        gates_t = gates + 4 * at
        n_before = n_batch if t > 0 else 0
        earlier = preceding(at, stride, first, end)
        start, places, bound = selected(
            drive, codes, code_stride, n_choices, k, t, rows, n_steps, n_batch, GATES, GATHERED
        )
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            real = (columns < HIDDEN)[None, :]
            i = load(start, places, columns, bound, HIDDEN, GATES, 1)
            f = load(start + HIDDEN, places, columns, bound, HIDDEN, GATES, 1)
            g = load(start + 2 * HIDDEN, places, columns, bound, HIDDEN, GATES, 1)
            o = load(start + 3 * HIDDEN, places, columns, bound, HIDDEN, GATES, 1)
            if BLOCKS > 1:
                cell = load(cells + earlier, rows, columns, n_before, HIDDEN, HIDDEN, 1)
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                if BLOCKS > 1:
                    hidden = load(states + earlier, rows, inner, n_before, HIDDEN, HIDDEN, 1)
                if MASKED:
                    hidden *= load(mask + (k * n_steps + t) * stride, rows, inner, n_batch, HIDDEN, HIDDEN, 1)
                i = dot(hidden, weights(kept_i, to_i, inner, columns, HIDDEN, 1, HIDDEN, BLOCKS), i)
                f = dot(hidden, weights(kept_f, to_f, inner, columns, HIDDEN, 1, HIDDEN, BLOCKS), f)
                g = dot(hidden, weights(kept_g, to_g, inner, columns, HIDDEN, 1, HIDDEN, BLOCKS), g)
                o = dot(hidden, weights(kept_o, to_o, inner, columns, HIDDEN, 1, HIDDEN, BLOCKS), o)
            i, f, g, o = logistic(i), logistic(f), tanh(g), logistic(o)
            cell = within(f * cell + i * g, real, HIDDEN, WIDTH)
            hidden = within(o * tanh(cell), real, HIDDEN, WIDTH)
            store(gates_t, rows, columns, n_batch, HIDDEN, GATES, 1, i)
            store(gates_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, f)
            store(gates_t + 2 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, g)
            store(gates_t + 3 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, o)
            store(cells + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1, cell)
            store(states + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1, hidden)
        if BLOCKS > 1:
            # What some threads wrote others read at the next step.
            tl.debug_barrier()
        at = following(at, stride, first, end)


@triton.jit(do_not_specialize=["n_steps", "n_batch", "n_read"])
def backward(
    gates,
    cells,
    matrix,
    mask,
    cotangent,
    window,
    delta,
    carousel,
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
    """See ``models.kernels.Kernels.lstm_backward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    GATES: tl.constexpr = 4 * HIDDEN
    from_i = matrix + k * HIDDEN * GATES
    from_f, from_g, from_o = from_i + HIDDEN, from_i + 2 * HIDDEN, from_i + 3 * HIDDEN
    kept_i = load(from_i, lanes, lanes, HIDDEN, HIDDEN, 1, GATES)
    kept_f = load(from_f, lanes, lanes, HIDDEN, HIDDEN, 1, GATES)
    kept_g = load(from_g, lanes, lanes, HIDDEN, HIDDEN, 1, GATES)
    kept_o = load(from_o, lanes, lanes, HIDDEN, HIDDEN, 1, GATES)
    stride = n_batch * HIDDEN
    steps, n_reached = reach(window, k, n_read, n_steps, TRUNCATED)
    d_i = tl.full((ROWS, WIDTH), 0.0, cells.dtype.element_ty)
    d_f, d_g, d_o, d_before = d_i, d_i, d_i, d_i
    for step in range(n_reached):
        t = n_steps - 1 - step
        at = (k * n_steps + t) * stride
        continued = step % steps > 0
        n_later, n_before = n_batch if step > 0 else 0, n_batch if t > 0 else 0
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            real = (columns < HIDDEN)[None, :]
            d_hidden = tl.full((ROWS, WIDTH), 0.0, cells.dtype.element_ty)
            later = delta + 4 * (at + stride)
            # At all steps, so that matrices are split into digits once; what must not arrive is left out afterwards.
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                if BLOCKS > 1:
                    d_i = load(later, rows, inner, n_later, HIDDEN, GATES, 1)
                    d_f = load(later + HIDDEN, rows, inner, n_later, HIDDEN, GATES, 1)
                    d_g = load(later + 2 * HIDDEN, rows, inner, n_later, HIDDEN, GATES, 1)
                    d_o = load(later + 3 * HIDDEN, rows, inner, n_later, HIDDEN, GATES, 1)
                d_hidden = dot(d_i, weights(kept_i, from_i, inner, columns, HIDDEN, 1, GATES, BLOCKS), d_hidden)
                d_hidden = dot(d_f, weights(kept_f, from_f, inner, columns, HIDDEN, 1, GATES, BLOCKS), d_hidden)
                d_hidden = dot(d_g, weights(kept_g, from_g, inner, columns, HIDDEN, 1, GATES, BLOCKS), d_hidden)
                d_hidden = dot(d_o, weights(kept_o, from_o, inner, columns, HIDDEN, 1, GATES, BLOCKS), d_hidden)
            if MASKED:
                d_hidden *= load(mask + at + stride, rows, columns, n_later, HIDDEN, HIDDEN, 1)
            if BLOCKS > 1:
                forget = load(gates + 4 * (at + stride) + HIDDEN, rows, columns, n_later, HIDDEN, GATES, 1)
                d_before = forget * load(carousel + at + stride, rows, columns, n_later, HIDDEN, HIDDEN, 1)
            d_hidden, d_cell = tl.where(continued, d_hidden, 0.0), tl.where(continued, d_before, 0.0)
            if step < n_read:
                read_at = (k * n_read + n_read - 1 - step) * stride
                d_hidden += load(cotangent + read_at, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            gates_t, delta_t = gates + 4 * at, delta + 4 * at
            i = load(gates_t, rows, columns, n_batch, HIDDEN, GATES, 1)
            f = load(gates_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1)
            g = load(gates_t + 2 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1)
            o = load(gates_t + 3 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1)
            flat = tanh(load(cells + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1))
            before = load(cells + at - stride, rows, columns, n_before, HIDDEN, HIDDEN, 1)
            d_cell += d_hidden * o * (1.0 - flat * flat)
            d_i = within(d_cell * g * i * (1.0 - i), real, HIDDEN, WIDTH)
            d_f = within(d_cell * before * f * (1.0 - f), real, HIDDEN, WIDTH)
            d_g = within(d_cell * i * (1.0 - g * g), real, HIDDEN, WIDTH)
            d_o = within(d_hidden * flat * o * (1.0 - o), real, HIDDEN, WIDTH)
            d_before = f * d_cell
            store(delta_t, rows, columns, n_batch, HIDDEN, GATES, 1, d_i)
            store(delta_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, d_f)
            store(delta_t + 2 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, d_g)
            store(delta_t + 3 * HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, d_o)
            store(carousel + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1, d_cell)
        if BLOCKS > 1:
            tl.debug_barrier()
