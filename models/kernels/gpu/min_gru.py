"""The minimal gated recurrent unit through a whole sequence, for a GPU; blocks z, n as in ``models.min_gru``.

No unit sees another one: a program follows its units through all steps, and what it carries never leaves its registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.gpu.launch import Parting
from models.kernels.gpu.nonlinearity import logistic
from models.kernels.gpu.tile import following, load, reach, selected, store

FORWARD = Parting(n_units=128, n_rows=16, n_warps=4)
BACKWARD = Parting(n_units=128, n_rows=16, n_warps=4)


@triton.jit(do_not_specialize=["code_stride", "n_choices", "n_steps", "n_kept", "n_batch"])
def forward(
    drive,
    codes,
    code_stride,
    n_choices,
    n_steps,
    states,
    gates,
    n_kept,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    GATHERED: tl.constexpr,
):
    """See ``models.kernels.Kernels.min_gru_forward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    GATES: tl.constexpr = 2 * HIDDEN
    stride = n_batch * HIDDEN
    first, end = k * n_kept * stride, (k + 1) * n_kept * stride
    for block in range(BLOCKS):
        columns = block * WIDTH + lanes
        hidden = tl.full((ROWS, WIDTH), 0.0, drive.dtype.element_ty)
        at = first
        for t in range(n_steps):
            gates_t = gates + 2 * at
            start, places, bound = selected(
                drive, codes, code_stride, n_choices, k, t, rows, n_steps, n_batch, GATES, GATHERED
            )
            z = logistic(load(start, places, columns, bound, HIDDEN, GATES, 1))
            n = load(start + HIDDEN, places, columns, bound, HIDDEN, GATES, 1)
            hidden = n + z * (hidden - n)
            store(gates_t, rows, columns, n_batch, HIDDEN, GATES, 1, z)
            store(gates_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, n)
            store(states + at, rows, columns, n_batch, HIDDEN, HIDDEN, 1, hidden)
            at = following(at, stride, first, end)


@triton.jit(do_not_specialize=["n_steps", "n_batch", "n_read"])
def backward(
    states,
    gates,
    cotangent,
    window,
    delta,
    n_read,
    n_steps,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    TRUNCATED: tl.constexpr,
):
    """See ``models.kernels.Kernels.min_gru_backward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    GATES: tl.constexpr = 2 * HIDDEN
    stride = n_batch * HIDDEN
    steps, n_reached = reach(window, k, n_read, n_steps, TRUNCATED)
    for block in range(BLOCKS):
        columns = block * WIDTH + lanes
        d_hidden = tl.full((ROWS, WIDTH), 0.0, states.dtype.element_ty)
        for step in range(n_reached):
            t = n_steps - 1 - step
            at = (k * n_steps + t) * stride
            if step % steps == 0:
                d_hidden = tl.full((ROWS, WIDTH), 0.0, states.dtype.element_ty)
            if step < n_read:
                read_at = (k * n_read + n_read - 1 - step) * stride
                d_hidden += load(cotangent + read_at, rows, columns, n_batch, HIDDEN, HIDDEN, 1)
            gates_t, delta_t = gates + 2 * at, delta + 2 * at
            z = load(gates_t, rows, columns, n_batch, HIDDEN, GATES, 1)
            n = load(gates_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1)
            before = load(states + at - stride, rows, columns, n_batch if t > 0 else 0, HIDDEN, HIDDEN, 1)
            store(delta_t, rows, columns, n_batch, HIDDEN, GATES, 1, d_hidden * (before - n) * z * (1.0 - z))
            store(delta_t + HIDDEN, rows, columns, n_batch, HIDDEN, GATES, 1, d_hidden * (1.0 - z))
            d_hidden *= z
