"""The gated recurrent unit through a whole sequence, compiled; blocks r, z, n as in ``models.gru``.

The gates' values are kept gate by gate, as in ``models.kernels.cpu.lstm``.
"""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.gradient import first_reached, ring_step, ring_steps, settle_drive, settle_matrix
from models.kernels.cpu.nonlinearity import logistic, tanh
from models.kernels.cpu.place import count_steps, drive_row, slot
from models.kernels.cpu.product import pack, product
from models.kernels.cpu.vectors import add_row, copy_row, copy_rows, padded


@compiled
def forward(drive, codes, matrix, bias, mask, states, gates, reset, first, last, top, bottom):
    """``n_t = tanh(drive_n + r_t q_t)``, ``h_t = n_t + z_t (h_{t-1} - n_t)``, ``q_t = (m_t h_{t-1}) W_n + b_n``.

    Args:
        drive: ``[K, N, 3H]``.
        codes: row of the drive for each place, ``[K, T, B]`` or ``[1, T, B]``; empty where N = T B rows are in order.
        matrix: W, ``[K, H, 3H]``.
        bias: b_n, ``[K, H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        states: h, ``[K, S, B, H]``, written: step t at t mod S, with S = T, or 2 or more for the last steps only.
        gates: values of r, z, n, ``[K, S, 3, B, H]``, written.
        reset: q, ``[K, S, B, H]``, written.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_kept, n_batch, n_hidden = states.shape[1:]
    n_steps, n_gates, n_rows = count_steps(drive, codes, n_batch), 3 * n_hidden, bottom - top
    width = padded(n_gates, drive.itemsize)
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drives, matrices, masks, values = drive.reshape(-1), matrix.reshape(-1), mask.reshape(-1), states.reshape(-1)
    all_gates, all_resets, biases = gates.reshape(-1), reset.reshape(-1), bias.reshape(-1)
    packed = np.zeros(n_hidden * width, drive.dtype)
    net, kept = np.zeros(n_rows * width, drive.dtype), np.zeros(size, drive.dtype)
    # Net inputs of r and z, and the drive's part of n's.
    opened, nothing = np.zeros(3 * size, drive.dtype), np.zeros(size, drive.dtype)
    for k in range(first, last):
        pack(matrices, k * n_hidden * n_gates, n_gates, 1, n_hidden, n_gates, n_rows, packed)
        for t in range(n_steps):
            at, earlier = slot(k, t, n_kept) * stride + top * n_hidden, slot(k, t - 1, n_kept) * stride + top * n_hidden
            before = values[earlier : earlier + size] if t > 0 else nothing
            source = before
            if masks.size > 0:
                source = kept
                mask_t = masks[slot(k, t, n_steps) * stride + top * n_hidden :][:size]
                for x in range(size):
                    kept[x] = mask_t[x] * before[x]
            product(source, 0, n_hidden, packed, net, 0, width, n_rows, n_hidden, n_gates)
            now, q = values[at : at + size], all_resets[at : at + size]
            for r in range(n_rows):
                place = (k * drive.shape[1] + drive_row(codes, k, t, top + r, n_batch)) * n_gates
                net_at, start = r * width, r * n_hidden
                for gate in range(2):
                    part = gate * n_hidden
                    add_row(net, net_at + part, drives, place + part, opened, gate * size + start, n_hidden)
                copy_row(drives, place + 2 * n_hidden, opened, 2 * size + start, n_hidden)
                add_row(net, net_at + 2 * n_hidden, biases, k * n_hidden, q, start, n_hidden)
            gate_t = all_gates[slot(k, t, n_kept) * 3 * stride + top * n_hidden :]
            r_t, z_t, n_t = gate_t[:size], gate_t[stride:][:size], gate_t[2 * stride :][:size]
            _units_forward(opened, q, before, r_t, z_t, n_t, now)


@compiled
def _units_forward(opened, q, before, r, z, n, hidden):
    """What a step does to single units; a function of its own, or LLVM would leave the loop to scalars."""
    size = hidden.size
    for x in range(size):
        r_x, z_x = logistic(opened[x]), logistic(opened[size + x])
        n_x = tanh(opened[2 * size + x] + r_x * q[x])
        r[x], z[x], n[x] = r_x, z_x, n_x
        hidden[x] = n_x + z_x * (before[x] - n_x)


@compiled
def _units_backward(gates, q, before, d_hidden, signal, carried):
    """The same, backwards."""
    size = q.size
    one = q.dtype.type(1)
    for x in range(size):
        r, z, n, d_h = gates[x], gates[size + x], gates[2 * size + x], d_hidden[x]
        d_n = d_h * (one - z) * (one - n * n)
        signal[x] = d_n * r
        signal[size + x] = d_n * q[x] * r * (one - r)
        signal[2 * size + x] = d_h * (before[x] - n) * z * (one - z)
        signal[3 * size + x] = d_n
        carried[x] = d_h * z


@compiled
def backward(
    states, gates, reset, matrix, mask, cotangent, window, codes, delta, d_drive, d_matrix, d_bias, first, last
):
    """``dE/dh_{t-1} = z_t dE/dh_t + m_t (delta_r W_r^T + delta_z W_z^T + r_t delta_n W_n^T)``, and the gradients.

    Args:
        states: h, ``[K, T, B, H]``.
        gates: values of r, z, n, ``[K, T, 3, B, H]``.
        reset: q, ``[K, T, B, H]``.
        matrix: W, ``[K, H, 3H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        cotangent: dE/dh at the last R steps, ``[K, R, B, H]``.
        window: steps of the windows in which errors flow back, int64 ``[K]``.
        codes: as in ``forward``.
        delta: error signals of the net inputs, ``[K, T, B, 3H]``, written; or empty.
        d_drive: gradient by the drive's table, ``[K, N, 3H]``, written; empty where ``codes`` are.
        d_matrix: gradient by W, ``[K, H, 3H]``, written.
        d_bias: gradient by b_n, ``[K, H]``, written.
        first: first member.
        last: one past the last member.
    """
    n_steps, n_batch, n_hidden = states.shape[1:]
    n_read, n_gates, size = cotangent.shape[1], 3 * n_hidden, n_batch * n_hidden
    width, wide = padded(n_hidden, states.itemsize), padded(n_gates, states.itemsize)
    # A row of the ring holds the signals of q, r, z, n: the first three meet the matrix, the last three the drive.
    n_held, step = ring_steps(n_steps, n_batch), ring_step(4 * n_hidden, states.itemsize)
    values, all_gates, all_resets = states.reshape(-1), gates.reshape(-1), reset.reshape(-1)
    matrices, masks, readings = matrix.reshape(-1), mask.reshape(-1), cotangent.reshape(-1)
    d_matrices, d_biases = d_matrix.reshape(-1), d_bias.reshape(-1)
    ring, kept = np.zeros(n_held * n_batch * step, states.dtype), np.zeros(n_held * size, states.dtype)
    net, d_hidden = np.zeros(n_batch * width, states.dtype), np.zeros(size, states.dtype)
    carried, nothing, signal = (
        np.zeros(size, states.dtype),
        np.zeros(size, states.dtype),
        np.zeros(4 * size, states.dtype),
    )
    turned, n_two = np.zeros(n_hidden * n_gates, states.dtype), 2 * n_hidden
    packed, total = np.zeros(n_gates * width, states.dtype), np.zeros(n_hidden * wide, states.dtype)
    for k in range(first, last):
        at_matrix = k * n_hidden * n_gates
        copy_rows(matrices, at_matrix + n_two, n_gates, turned, 0, n_gates, n_hidden, n_hidden)
        copy_rows(matrices, at_matrix, n_gates, turned, n_hidden, n_gates, n_hidden, n_two)
        # Of the transposed matrix.
        pack(turned, 0, 1, n_gates, n_gates, n_hidden, n_batch, packed)
        total[:], d_bias[k], d_drive[k : k + 1] = 0, 0, 0
        reached, end = first_reached(n_steps, n_read, window[k]), n_steps
        delta[k : k + 1, :reached] = 0
        while end > reached:
            begin = max(reached, end - n_held)
            for t in range(end - 1, begin - 1, -1):
                at = (k * n_steps + t) * size
                if (n_steps - 1 - t) % window[k] == 0:
                    d_hidden[:] = 0
                else:
                    following = (t + 1 - begin) * n_batch * step if t + 1 < end else 0
                    product(ring, following, step, packed, net, 0, width, n_batch, n_gates, n_hidden)
                    copy_rows(net, 0, width, d_hidden, 0, n_hidden, n_batch, n_hidden)
                    if masks.size > 0:
                        mask_t = masks[at + size : at + 2 * size]
                        for x in range(size):
                            d_hidden[x] *= mask_t[x]
                    for x in range(size):
                        d_hidden[x] += carried[x]
                if t >= n_steps - n_read:
                    reading = readings[(k * n_read + t - n_steps + n_read) * size :][:size]
                    for x in range(size):
                        d_hidden[x] += reading[x]
                gate_t, q = all_gates[3 * at : 3 * at + 3 * size], all_resets[at : at + size]
                before = values[at - size : at] if t > 0 else nothing
                _units_backward(gate_t, q, before, d_hidden, signal, carried)
                place = (t - begin) * n_batch * step
                for gate in range(4):
                    copy_rows(signal, gate * size, n_hidden, ring, place + gate * n_hidden, step, n_batch, n_hidden)
                for r in range(n_batch):
                    add_row(d_biases, k * n_hidden, signal, r * n_hidden, d_biases, k * n_hidden, n_hidden)
            settle_drive(k, begin, end, n_batch, ring, step, n_hidden, n_gates, codes, delta, d_drive)
            settle_matrix(k, begin, end, states, mask, kept, ring, step, total, n_gates)
            end = begin
        copy_rows(total, n_hidden, wide, d_matrices, at_matrix, n_gates, n_hidden, n_two)
        copy_rows(total, 0, wide, d_matrices, at_matrix + n_two, n_gates, n_hidden, n_hidden)
