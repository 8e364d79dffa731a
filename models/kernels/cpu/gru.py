"""The gated recurrent unit through a whole sequence, compiled; blocks r, z, n as in ``models.gru``."""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.nonlinearity import logistic, tanh
from models.kernels.cpu.product import pack, padded, product


@compiled
def forward(drive, matrix, bias, mask, states, gates, reset, first, last, top, bottom):
    """``n_t = tanh(drive_n + r_t q_t)``, ``h_t = n_t + z_t (h_{t-1} - n_t)``, ``q_t = (m_t h_{t-1}) W_n + b_n``.

    Args:
        drive: ``[K, T, B, 3H]``.
        matrix: W, ``[K, H, 3H]``.
        bias: b_n, ``[K, H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        states: h, ``[K, T, B, H]``, written.
        gates: values of r, z, n, ``[K, T, B, 3H]``, written.
        reset: q, ``[K, T, B, H]``, written.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_steps, n_batch, n_hidden = states.shape[1:]
    n_gates, n_rows = 3 * n_hidden, bottom - top
    width = padded(n_gates, drive.itemsize)
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drives, matrices, masks, values = drive.reshape(-1), matrix.reshape(-1), mask.reshape(-1), states.reshape(-1)
    all_gates, all_resets = gates.reshape(-1), reset.reshape(-1)
    packed = np.zeros(n_hidden * width, drive.dtype)
    net, kept = np.zeros(n_rows * width, drive.dtype), np.zeros(size, drive.dtype)
    candidate, before = np.zeros(size, drive.dtype), np.zeros(size, drive.dtype)
    # Of r and z alone, row by row: one long loop of logistic functions takes less time than short ones.
    opening = np.zeros(2 * size, drive.dtype)
    for k in range(first, last):
        pack(matrices, k * n_hidden * n_gates, n_gates, 1, n_hidden, n_gates, packed)
        bias_k = bias[k]
        before[:] = 0
        for t in range(n_steps):
            at = (k * n_steps + t) * stride + top * n_hidden
            source = before
            if masks.size > 0:
                source = kept
                mask_t = masks[at : at + size]
                for x in range(size):
                    kept[x] = mask_t[x] * before[x]
            product(False, source, 0, n_hidden, packed, net, n_rows, n_hidden, width)
            gate, now = all_gates[3 * at : 3 * at + 3 * size], values[at : at + size]
            drive_t, q = drives[3 * at : 3 * at + 3 * size], all_resets[at : at + size]
            for r in range(n_rows):
                row, net_row = opening[2 * r * n_hidden : 2 * (r + 1) * n_hidden], net[r * width : r * width + n_gates]
                drive_row, q_row = drive_t[r * n_gates : (r + 1) * n_gates], q[r * n_hidden : (r + 1) * n_hidden]
                for j in range(2 * n_hidden):
                    row[j] = net_row[j] + drive_row[j]
                product_row = net_row[2 * n_hidden :]
                for j in range(n_hidden):
                    q_row[j] = product_row[j] + bias_k[j]
            for x in range(2 * size):
                opening[x] = logistic(opening[x])
            for r in range(n_rows):
                row, start, end = opening[2 * r * n_hidden : 2 * (r + 1) * n_hidden], r * n_hidden, (r + 1) * n_hidden
                gate[r * n_gates : r * n_gates + 2 * n_hidden] = row
                drive_row, n_row, q_row = drive_t[r * n_gates + 2 * n_hidden :], candidate[start:end], q[start:end]
                for j in range(n_hidden):
                    n_row[j] = drive_row[j] + row[j] * q_row[j]
            for x in range(size):
                candidate[x] = tanh(candidate[x])
            for r in range(n_rows):
                start, end = r * n_hidden, (r + 1) * n_hidden
                z, n = opening[2 * start + n_hidden : 2 * end], candidate[start:end]
                h, h_before = now[start:end], before[start:end]
                gate[r * n_gates + 2 * n_hidden : (r + 1) * n_gates] = n
                for j in range(n_hidden):
                    h[j] = n[j] + z[j] * (h_before[j] - n[j])
            before[:] = now


@compiled
def backward(states, gates, reset, matrix, mask, cotangent, delta, d_reset, first, last, top, bottom):
    """``dE/dh_{t-1} = z_t dE/dh_t + m_t (delta_r W_r^T + delta_z W_z^T + r_t delta_n W_n^T)``.

    Args:
        states: h, ``[K, T, B, H]``.
        gates: values of r, z, n, ``[K, T, B, 3H]``.
        reset: q, ``[K, T, B, H]``.
        matrix: W, ``[K, H, 3H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        cotangent: dE/dh at the last R steps, ``[K, R, B, H]``.
        delta: error signals of the net inputs, ``[K, T, B, 3H]``, written.
        d_reset: error signal of ``h W_n``, ``[K, T, B, H]``, written: r_t delta_n.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_steps, n_batch, n_hidden = states.shape[1:]
    n_read, n_rows, n_gates = cotangent.shape[1], bottom - top, 3 * n_hidden
    width = padded(n_hidden, states.itemsize)
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    values, all_gates, all_resets = states.reshape(-1), gates.reshape(-1), reset.reshape(-1)
    matrices, masks, readings = matrix.reshape(-1), mask.reshape(-1), cotangent.reshape(-1)
    deltas, d_resets = delta.reshape(-1), d_reset.reshape(-1)
    net, nothing = np.zeros(n_rows * width, states.dtype), np.zeros(size, states.dtype)
    from_rz, from_n = np.zeros(2 * n_hidden * width, states.dtype), np.zeros(n_hidden * width, states.dtype)
    d_hidden, carried = np.zeros(size, states.dtype), np.zeros(size, states.dtype)
    one = states.dtype.type(1)
    for k in range(first, last):
        # Of the transposed matrices.
        pack(matrices, k * n_hidden * n_gates, 1, n_gates, 2 * n_hidden, n_hidden, from_rz)
        pack(matrices, k * n_hidden * n_gates + 2 * n_hidden, 1, n_gates, n_hidden, n_hidden, from_n)
        for t in range(n_steps - 1, -1, -1):
            at = (k * n_steps + t) * stride + top * n_hidden
            if t == n_steps - 1:
                d_hidden[:] = 0
            else:
                product(False, deltas, 3 * (at + stride), n_gates, from_rz, net, n_rows, 2 * n_hidden, width)
                product(True, d_resets, at + stride, n_hidden, from_n, net, n_rows, n_hidden, width)
                for r in range(n_rows):
                    d_hidden[r * n_hidden : (r + 1) * n_hidden] = net[r * width : r * width + n_hidden]
                if masks.size > 0:
                    mask_t = masks[at + stride : at + stride + size]
                    for x in range(size):
                        d_hidden[x] *= mask_t[x]
                for x in range(size):
                    d_hidden[x] += carried[x]
            if t >= n_steps - n_read:
                read_at = (k * n_read + t - n_steps + n_read) * stride + top * n_hidden
                reading = readings[read_at : read_at + size]
                for x in range(size):
                    d_hidden[x] += reading[x]
            gate, signal = all_gates[3 * at : 3 * at + 3 * size], deltas[3 * at : 3 * at + 3 * size]
            through, q = d_resets[at : at + size], all_resets[at : at + size]
            before = values[at - stride : at - stride + size] if t > 0 else nothing
            for row in range(n_rows):
                first_gate, start, end = row * n_gates, row * n_hidden, (row + 1) * n_hidden
                gate_row, signal_row = gate[first_gate:][:n_gates], signal[first_gate:][:n_gates]
                d_q, h_before, d_h = through[start:end], before[start:end], d_hidden[start:end]
                r, z, n = gate_row[:n_hidden], gate_row[n_hidden : 2 * n_hidden], gate_row[2 * n_hidden :]
                d_r, d_z, d_n = signal_row[:n_hidden], signal_row[n_hidden : 2 * n_hidden], signal_row[2 * n_hidden :]
                q_row, left = q[start:end], carried[start:end]
                # A loop for each: one loop would write to so many arrays that LLVM leaves it to scalars.
                for j in range(n_hidden):
                    d_n[j] = d_h[j] * (one - z[j]) * (one - n[j] * n[j])
                for j in range(n_hidden):
                    d_z[j] = d_h[j] * (h_before[j] - n[j]) * z[j] * (one - z[j])
                for j in range(n_hidden):
                    d_r[j] = d_n[j] * q_row[j] * r[j] * (one - r[j])
                for j in range(n_hidden):
                    d_q[j] = d_n[j] * r[j]
                for j in range(n_hidden):
                    left[j] = d_h[j] * z[j]
