"""The gated recurrent unit through a whole sequence, compiled; blocks r, z, n as in ``models.gru``."""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.nonlinearity import logistic, tanh
from models.kernels.cpu.product import product


@compiled
def forward(drive, matrix, bias, mask, states, gates, reset, first, last, top, bottom):
    """``n_t = tanh(drive_n + r_t q_t)``, ``h_t = n_t + z_t (h_{t-1} - n_t)``, ``q_t = (m_t h_{t-1}) W_n + b_n``.

    Args:
        drive: ``[K, T, B, 3H]``.
        matrix: W with padded rows, ``[K, H, width]``.
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
    width, n_rows, n_gates = matrix.shape[2], bottom - top, 3 * n_hidden
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drives, matrices, masks, values = drive.reshape(-1), matrix.reshape(-1), mask.reshape(-1), states.reshape(-1)
    all_gates, all_resets = gates.reshape(-1), reset.reshape(-1)
    net, kept = np.zeros(n_rows * width, drive.dtype), np.zeros(size, drive.dtype)
    candidate, before = np.zeros(size, drive.dtype), np.zeros(size, drive.dtype)
    for k in range(first, last):
        before[:] = 0
        for t in range(n_steps):
            at = (k * n_steps + t) * stride + top * n_hidden
            source = before
            if masks.size > 0:
                source = kept
                for x in range(size):
                    kept[x] = masks[at + x] * before[x]
            product(source, 0, n_hidden, matrices, k * n_hidden * width, net, n_rows, n_hidden, width)
            gate, now = all_gates[3 * at : 3 * at + 3 * size], values[at : at + size]
            for r in range(n_rows):
                row, n = r * n_gates, 2 * n_hidden
                for j in range(n):
                    gate[row + j] = net[r * width + j] + drives[3 * at + row + j]
                for j in range(n_hidden):
                    all_resets[at + r * n_hidden + j] = net[r * width + n + j] + bias[k, j]
                    # Its logistic is not read; one long loop takes less time than short ones.
                    gate[row + n + j] = drives[3 * at + row + n + j]
            for x in range(3 * size):
                gate[x] = logistic(gate[x])
            for r in range(n_rows):
                row, n = r * n_gates, 2 * n_hidden
                for j in range(n_hidden):
                    x = r * n_hidden + j
                    candidate[x] = drives[3 * at + row + n + j] + gate[row + j] * all_resets[at + x]
            for x in range(size):
                candidate[x] = tanh(candidate[x])
            for r in range(n_rows):
                z = r * n_gates + n_hidden
                n = z + n_hidden
                for j in range(n_hidden):
                    x = r * n_hidden + j
                    gate[n + j] = candidate[x]
                    now[x] = candidate[x] + gate[z + j] * (before[x] - candidate[x])
            for x in range(size):
                before[x] = now[x]


@compiled
def backward(states, gates, reset, transposed, mask, cotangent, delta, d_product, first, last, top, bottom):
    """``dE/dh_{t-1} = z_t dE/dh_t + m_t (delta_r W_r^T + delta_z W_z^T + r_t delta_n W_n^T)``.

    Args:
        states: h, ``[K, T, B, H]``.
        gates: values of r, z, n, ``[K, T, B, 3H]``.
        reset: q, ``[K, T, B, H]``.
        transposed: W^T with padded rows, ``[K, 3H, width]``.
        mask: m, ``[K, T, B, H]``, or empty.
        cotangent: dE/dh at the last R steps, ``[K, R, B, H]``.
        delta: error signals of the net inputs, ``[K, T, B, 3H]``, written.
        d_product: error signals of ``h W``, ``[K, T, B, 3H]``, written: delta_r, delta_z and r_t delta_n.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_steps, n_batch, n_hidden = states.shape[1:]
    n_read, width, n_rows, n_gates = cotangent.shape[1], transposed.shape[2], bottom - top, 3 * n_hidden
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    values, all_gates, all_resets = states.reshape(-1), gates.reshape(-1), reset.reshape(-1)
    matrices, masks, readings = transposed.reshape(-1), mask.reshape(-1), cotangent.reshape(-1)
    deltas, products = delta.reshape(-1), d_product.reshape(-1)
    net, nothing = np.zeros(n_rows * width, states.dtype), np.zeros(size, states.dtype)
    d_hidden, carried = np.zeros(size, states.dtype), np.zeros(size, states.dtype)
    one = states.dtype.type(1)
    for k in range(first, last):
        for t in range(n_steps - 1, -1, -1):
            at = (k * n_steps + t) * stride + top * n_hidden
            if t == n_steps - 1:
                d_hidden[:] = 0
            else:
                following = 3 * (at + stride)
                product(products, following, n_gates, matrices, k * n_gates * width, net, n_rows, n_gates, width)
                for r in range(n_rows):
                    for j in range(n_hidden):
                        d_hidden[r * n_hidden + j] = net[r * width + j]
                if masks.size > 0:
                    for x in range(size):
                        d_hidden[x] *= masks[at + stride + x]
                for x in range(size):
                    d_hidden[x] += carried[x]
            if t >= n_steps - n_read:
                read_at = (k * n_read + t - n_steps + n_read) * stride + top * n_hidden
                for x in range(size):
                    d_hidden[x] += readings[read_at + x]
            gate, signal = all_gates[3 * at : 3 * at + 3 * size], deltas[3 * at : 3 * at + 3 * size]
            through, q = products[3 * at : 3 * at + 3 * size], all_resets[at : at + size]
            before = values[at - stride : at - stride + size] if t > 0 else nothing
            for row in range(n_rows):
                r = row * n_gates
                z, n = r + n_hidden, r + 2 * n_hidden
                for j in range(n_hidden):
                    x = row * n_hidden + j
                    r_t, z_t, n_t = gate[r + j], gate[z + j], gate[n + j]
                    d_n = d_hidden[x] * (one - z_t) * (one - n_t * n_t)
                    d_z = d_hidden[x] * (before[x] - n_t) * z_t * (one - z_t)
                    d_r = d_n * q[x] * r_t * (one - r_t)
                    signal[r + j] = d_r
                    signal[z + j] = d_z
                    signal[n + j] = d_n
                    through[r + j] = d_r
                    through[z + j] = d_z
                    through[n + j] = d_n * r_t
                    carried[x] = d_hidden[x] * z_t
