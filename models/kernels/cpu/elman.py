"""Elman's recurrence through a whole sequence, compiled; its units may leak, its steps may have their own weights."""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.gradient import first_reached, ring_step, ring_steps, settle_drive, settle_matrix
from models.kernels.cpu.nonlinearity import logistic, rectifier, tanh
from models.kernels.cpu.place import count_steps, drive_row, slot
from models.kernels.cpu.product import pack, product
from models.kernels.cpu.vectors import add_row, copy_rows, multiply_rows, padded
from models.kernels.interface import LOGISTIC, TANH


@compiled
def forward(kind, drive, codes, matrices, mask, retention, states, units, first, last, top, bottom):
    """``h_t = f(drive_t + (m_t h_{t-1}) W)`` for members first to last and rows top to bottom of the batch.

    With retention r it is ``h_t = r h_{t-1} + (1 - r) f(...)``.

    Args:
        kind: which f.
        drive: ``[K, N, H]``.
        codes: row of the drive for each place, ``[K, T, B]`` or ``[1, T, B]``; empty where N = T B rows are in order.
        matrices: W, ``[K, 1, H, H]``; or ``[K, L, H, H]``, whose last T are those of the steps.
        mask: m, ``[K, T, B, H]``, or empty.
        retention: r, ``[K, H]``, or empty.
        states: h, ``[K, S, B, H]``, written: step t at t mod S, with S = T, or 2 or more for the last steps only.
        units: f(...), ``[K, S, B, H]``, written; empty where ``retention`` is.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_matrices, (n_kept, n_batch, n_hidden) = matrices.shape[1], states.shape[1:]
    n_steps = count_steps(drive, codes, n_batch)
    width, n_rows = padded(n_hidden, drive.itemsize), bottom - top
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drives, weights, masks, values = drive.reshape(-1), matrices.reshape(-1), mask.reshape(-1), states.reshape(-1)
    retentions, fresh = retention.reshape(-1), units.reshape(-1)
    packed = np.zeros(n_hidden * width, drive.dtype)
    net, kept = np.zeros(n_rows * width, drive.dtype), np.zeros(size, drive.dtype)
    for k in range(first, last):
        kept[:] = 0
        for t in range(n_steps):
            if t == 0 or n_matrices > 1:
                at_matrix = (k * n_matrices + matrix_of(t, n_steps, n_matrices)) * n_hidden * n_hidden
                pack(weights, at_matrix, n_hidden, 1, n_hidden, n_hidden, n_rows, packed)
            at, earlier = slot(k, t, n_kept) * stride + top * n_hidden, slot(k, t - 1, n_kept) * stride + top * n_hidden
            source, source_at = values, earlier
            if t == 0 or masks.size > 0:
                source, source_at = kept, 0
            if t > 0 and masks.size > 0:
                mask_t, before = masks[slot(k, t, n_steps) * stride + top * n_hidden :][:size], values[earlier:][:size]
                for x in range(size):
                    kept[x] = mask_t[x] * before[x]
            product(source, source_at, n_hidden, packed, net, 0, width, n_rows, n_hidden, n_hidden)
            now = values[at : at + size]
            for r in range(n_rows):
                place = (k * drive.shape[1] + drive_row(codes, k, t, top + r, n_batch)) * n_hidden
                add_row(net, r * width, drives, place, now, r * n_hidden, n_hidden)
            if kind == TANH:
                for x in range(size):
                    now[x] = tanh(now[x])
            elif kind == LOGISTIC:
                for x in range(size):
                    now[x] = logistic(now[x])
            else:
                for x in range(size):
                    now[x] = rectifier(now[x])
            if retentions.size > 0:
                copy_rows(now, 0, size, fresh, at, size, 1, size)
                before = values[earlier:][:size] if t > 0 else kept
                _leak(retentions[k * n_hidden :], before, now, n_rows, n_hidden)


@compiled
def matrix_of(t, n_steps, n_matrices):
    """Which matrix step t of a sequence has: the only one, or that of its place before the last."""
    return n_matrices - n_steps + t if n_matrices > 1 else 0


@compiled
def _leak(retention, before, now, n_rows, n_hidden):
    """``now <- r before + (1 - r) now`` for rows of units."""
    one = now.dtype.type(1)
    for r in range(n_rows):
        old, new = before[r * n_hidden :][:n_hidden], now[r * n_hidden :][:n_hidden]
        for j in range(n_hidden):
            new[j] = retention[j] * old[j] + (one - retention[j]) * new[j]


@compiled
def _part(retention, d_kept, ring, place, step, n_rows, n_hidden):
    """``e <- e + d_kept``, of which ``d_kept <- r e`` goes to the state before and ``e <- (1 - r) e`` to the unit."""
    one = ring.dtype.type(1)
    for r in range(n_rows):
        before, unit = d_kept[r * n_hidden :][:n_hidden], ring[place + r * step :][:n_hidden]
        for j in range(n_hidden):
            error = unit[j] + before[j]
            before[j] = retention[j] * error
            unit[j] = (one - retention[j]) * error


@compiled
def _ring_place(t, end, n_held, n_batch, step):
    """Where the signals of step t lie in a ring with room for those of step ``end`` behind its ``n_held`` steps."""
    return (n_held - end + t) * n_batch * step


@compiled
def backward(
    kind, states, units, matrices, mask, retention, cotangent, window, codes, delta, d_drive, d_matrices, first, last
):
    """``delta_t = f'(a_t) (dE/dh_t + m_{t+1} (delta_{t+1} W^T))`` and the gradients, for members first to last.

    With retention r it is ``delta_t = f'(a_t) (1 - r) e_t``, ``e_t = dE/dh_t + r e_{t+1} + m_{t+1} (delta_{t+1} W^T)``.

    Args:
        kind: which f.
        states: h, ``[K, T, B, H]``.
        units: f(a), ``[K, T, B, H]``; the states where nothing leaks.
        matrices: W, as in ``forward``.
        mask: m, ``[K, T, B, H]``, or empty.
        retention: r, ``[K, H]``, or empty.
        cotangent: dE/dh at the last R steps, ``[K, R, B, H]``.
        window: steps of the windows in which errors flow back, int64 ``[K]``.
        codes: as in ``forward``.
        delta: ``[K, T, B, H]``, written; or empty.
        d_drive: gradient by the drive's table, ``[K, N, H]``, written; empty where ``codes`` are.
        d_matrices: gradient by W, like ``matrices``, written.
        first: first member.
        last: one past the last member.
    """
    n_matrices, (n_steps, n_batch, n_hidden) = matrices.shape[1], states.shape[1:]
    n_read, width, size = cotangent.shape[1], padded(n_hidden, states.itemsize), n_batch * n_hidden
    # A gradient of its own for each step is not summed over several.
    n_held = ring_steps(n_steps, n_batch) if n_matrices == 1 else 1
    step = ring_step(n_hidden, states.itemsize)
    values, weights, masks = units.reshape(-1), matrices.reshape(-1), mask.reshape(-1)
    readings, retentions, d_weights = cotangent.reshape(-1), retention.reshape(-1), d_matrices.reshape(-1)
    ring, kept = np.zeros((n_held + 1) * n_batch * step, states.dtype), np.zeros(n_held * size, states.dtype)
    slope, d_kept = np.zeros(size, states.dtype), np.zeros(size, states.dtype)
    packed, total = np.zeros(n_hidden * width, states.dtype), np.zeros(n_hidden * width, states.dtype)
    # Literals are of double precision and would take the loops with them.
    zero, one = states.dtype.type(0), states.dtype.type(1)
    for k in range(first, last):
        total[:] = 0
        d_drive[k : k + 1] = 0
        reached, end = first_reached(n_steps, n_read, window[k]), n_steps
        delta[k : k + 1, :reached] = 0
        if n_matrices > 1:
            d_matrices[k, : matrix_of(reached, n_steps, n_matrices)] = 0
        while end > reached:
            begin = max(reached, end - n_held)
            for t in range(end - 1, begin - 1, -1):
                at, place = (k * n_steps + t) * size, _ring_place(t, end, n_held, n_batch, step)
                value = values[at : at + size]
                if (n_steps - 1 - t) % window[k] == 0:
                    ring[place : place + n_batch * step], d_kept[:] = 0, 0
                else:
                    if t == n_steps - 2 or n_matrices > 1:
                        # The transposed matrix.
                        at_matrix = (k * n_matrices + matrix_of(t + 1, n_steps, n_matrices)) * n_hidden * n_hidden
                        pack(weights, at_matrix, 1, n_hidden, n_hidden, n_hidden, n_batch, packed)
                    product(ring, place + n_batch * step, step, packed, ring, place, step, n_batch, n_hidden, n_hidden)
                    if masks.size > 0:
                        multiply_rows(masks, at + size, n_hidden, ring, place, step, n_batch, n_hidden)
                if t >= n_steps - n_read:
                    reading_at = (k * n_read + t - n_steps + n_read) * size
                    for r in range(n_batch):
                        to = place + r * step
                        add_row(ring, to, readings, reading_at + r * n_hidden, ring, to, n_hidden)
                if retentions.size > 0:
                    _part(retentions[k * n_hidden :], d_kept, ring, place, step, n_batch, n_hidden)
                if kind == TANH:
                    for x in range(size):
                        slope[x] = one - value[x] * value[x]
                elif kind == LOGISTIC:
                    for x in range(size):
                        slope[x] = value[x] * (one - value[x])
                else:
                    for x in range(size):
                        slope[x] = one if value[x] > zero else zero
                multiply_rows(slope, 0, n_hidden, ring, place, step, n_batch, n_hidden)
            held = ring[_ring_place(begin, end, n_held, n_batch, step) :]
            settle_drive(k, begin, end, n_batch, held, step, 0, n_hidden, codes, delta, d_drive)
            settle_matrix(k, begin, end, states, mask, kept, held, step, total, n_hidden)
            # The next block reads the earliest signals as those of its ``end``; elsewhere it may overwrite them first.
            copy_rows(held, 0, step, ring, n_held * n_batch * step, step, n_batch, width)
            if begin == reached or n_matrices > 1:
                at_matrix = (k * n_matrices + matrix_of(begin, n_steps, n_matrices)) * n_hidden * n_hidden
                copy_rows(total, 0, width, d_weights, at_matrix, n_hidden, n_hidden, n_hidden)
                total[:] = 0
            end = begin
