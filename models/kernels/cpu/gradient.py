"""From error signals to gradients: what the backward passes do with the signals of a few steps while caches hold them.

A backward pass keeps the signals of its last steps in a *ring*: rows of the batch, step after step, ``ring_step`` items
apart. When the ring is full, or the sequence's first step is reached, it is settled.
"""

from __future__ import annotations

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.product import outer
from models.kernels.cpu.vectors import VECTOR_BYTES, add_row, copy_rows, padded

RING_ROWS = 100
"""Rows of the batch whose error signals are kept: more would leave the second cache, fewer be read too often."""


@compiled
def ring_steps(n_steps, n_batch):
    """How many steps of a sequence a ring holds, at least one."""
    return max(1, min(n_steps, RING_ROWS // n_batch))


@compiled
def ring_step(n_columns, item_bytes):
    """Distance of two rows of a ring, in items: a vector more than a row, lest rows lie powers of two apart."""
    return padded(n_columns, item_bytes) + VECTOR_BYTES // item_bytes


@compiled
def first_reached(n_steps, n_read, window):
    """First step that errors of the last ``n_read`` ones reach in windows of ``window`` steps, counted from the end."""
    return max(0, n_steps - ((n_read - 1) // window + 1) * window)


@compiled
def settle_drive(k, begin, end, n_batch, ring, step, at, n_columns, codes, delta, d_drive):
    """Copy the signals of steps begin to end to ``delta``, and add them up by the row of the drive's table.

    Args:
        k: member.
        begin: first step that the ring holds.
        end: one past the last step.
        n_batch: rows of the batch.
        ring: error signals, see above.
        step: distance of its rows.
        at: first column of the net inputs' signals.
        n_columns: number of these columns.
        codes: ``[K, T, B]`` or ``[1, T, B]``, or empty where the drive has no table.
        delta: ``[K, T, B, n_columns]``, written; or empty.
        d_drive: ``[K, N, n_columns]``, added to; empty where ``codes`` are.
    """
    deltas, tables = delta.reshape(-1), d_drive.reshape(-1)
    if deltas.size > 0:
        first = (k * delta.shape[1] + begin) * n_batch * n_columns
        copy_rows(ring, at, step, deltas, first, n_columns, (end - begin) * n_batch, n_columns)
    if codes.size > 0:
        own = codes[k if codes.shape[0] > 1 else 0]
        for t in range(begin, end):
            for r in range(n_batch):
                place, total = ((t - begin) * n_batch + r) * step + at, (k * d_drive.shape[1] + own[t, r]) * n_columns
                add_row(tables, total, ring, place, tables, total, n_columns)


@compiled
def settle_matrix(k, begin, end, states, mask, kept, ring, step, total, n_columns):
    """Add ``sum_t (m_t h_{t-1})^T delta_t`` over steps begin to end to ``total`` ``[H, padded(n_columns)]``.

    Args:
        k: member.
        begin: first step that the ring holds.
        end: one past the last step.
        states: h, ``[K, T, B, H]``; the state before the first step is zero.
        mask: m, ``[K, T, B, H]``, or empty.
        kept: room for as many states as the ring holds rows.
        ring: error signals, see above.
        step: distance of its rows.
        total: flat, added to.
        n_columns: number of columns.
    """
    n_steps, n_batch, n_hidden = states.shape[1:]
    start = max(begin, 1)
    if start == end:
        return
    values, masks = states.reshape(-1), mask.reshape(-1)
    left, left_at = values, (k * n_steps + start - 1) * n_batch * n_hidden
    n_rows = (end - start) * n_batch
    if masks.size > 0:
        at = (k * n_steps + start) * n_batch * n_hidden
        before, mask_t = values[left_at:][: n_rows * n_hidden], masks[at:][: n_rows * n_hidden]
        for x in range(n_rows * n_hidden):
            kept[x] = mask_t[x] * before[x]
        left, left_at = kept, 0
    right_at = (start - begin) * n_batch * step
    outer(left, left_at, n_hidden, ring, right_at, step, n_rows, total, n_hidden, n_columns)
