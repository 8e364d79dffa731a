"""Long short-term memory through a whole sequence, compiled; blocks i, f, g, o as in ``models.lstm``."""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.nonlinearity import logistic, tanh
from models.kernels.cpu.product import pack, padded, product


@compiled
def forward(drive, matrix, mask, states, gates, cells, squashed, first, last, top, bottom):
    """``c_t = f_t c_{t-1} + i_t g_t``, ``h_t = o_t tanh(c_t)`` for members first to last and rows top to bottom.

    Args:
        drive: ``[K, T, B, 4H]``.
        matrix: W, ``[K, H, 4H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        states: h, ``[K, T, B, H]``, written.
        gates: values of i, f, g, o, ``[K, T, B, 4H]``, written.
        cells: c, ``[K, T, B, H]``, written.
        squashed: tanh(c), ``[K, T, B, H]``, written.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_steps, n_batch, n_hidden = states.shape[1:]
    n_gates, n_rows = 4 * n_hidden, bottom - top
    width = padded(n_gates, drive.itemsize)
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drives, matrices, masks, values = drive.reshape(-1), matrix.reshape(-1), mask.reshape(-1), states.reshape(-1)
    all_gates, all_cells, all_squashed = gates.reshape(-1), cells.reshape(-1), squashed.reshape(-1)
    packed = np.zeros(n_hidden * width, drive.dtype)
    net, kept = np.zeros(n_rows * width, drive.dtype), np.zeros(size, drive.dtype)
    candidate, before = np.zeros(size, drive.dtype), np.zeros(size, drive.dtype)
    for k in range(first, last):
        pack(matrices, k * n_hidden * n_gates, n_gates, 1, n_hidden, n_gates, packed)
        before[:], kept[:] = 0, 0
        for t in range(n_steps):
            at = (k * n_steps + t) * stride + top * n_hidden
            source, source_at = values, at - stride
            if t == 0 or masks.size > 0:
                source, source_at = kept, 0
            if t > 0 and masks.size > 0:
                mask_t, hidden = masks[at : at + size], values[at - stride : at - stride + size]
                for x in range(size):
                    kept[x] = mask_t[x] * hidden[x]
            product(False, source, source_at, n_hidden, packed, net, n_rows, n_hidden, width)
            gate, drive_t = all_gates[4 * at : 4 * at + 4 * size], drives[4 * at : 4 * at + 4 * size]
            cell, flat, now = all_cells[at : at + size], all_squashed[at : at + size], values[at : at + size]
            for r in range(n_rows):
                row, net_row = gate[r * n_gates : (r + 1) * n_gates], net[r * width : r * width + n_gates]
                drive_row, g = drive_t[r * n_gates : (r + 1) * n_gates], candidate[r * n_hidden : (r + 1) * n_hidden]
                for j in range(n_gates):
                    row[j] = net_row[j] + drive_row[j]
                g[:] = row[2 * n_hidden : 3 * n_hidden]
            # Over all blocks and the candidate's again: long loops without remainders take less time than short ones.
            for x in range(4 * size):
                gate[x] = logistic(gate[x])
            for x in range(size):
                candidate[x] = tanh(candidate[x])
            for r in range(n_rows):
                row, g = gate[r * n_gates : (r + 1) * n_gates], candidate[r * n_hidden : (r + 1) * n_hidden]
                i, f = row[:n_hidden], row[n_hidden : 2 * n_hidden]
                c, c_before = cell[r * n_hidden : (r + 1) * n_hidden], before[r * n_hidden : (r + 1) * n_hidden]
                row[2 * n_hidden : 3 * n_hidden] = g
                for j in range(n_hidden):
                    c[j] = f[j] * c_before[j] + i[j] * g[j]
            for x in range(size):
                before[x] = cell[x]
                flat[x] = tanh(cell[x])
            for r in range(n_rows):
                o = gate[r * n_gates + 3 * n_hidden : (r + 1) * n_gates]
                h, c = now[r * n_hidden : (r + 1) * n_hidden], flat[r * n_hidden : (r + 1) * n_hidden]
                for j in range(n_hidden):
                    h[j] = o[j] * c[j]


@compiled
def backward(gates, cells, squashed, matrix, mask, cotangent, delta, carousel, first, last, top, bottom):
    """Error signals of the four net inputs and of the cell, see ``models.lstm.Lstm.backward``.

    Args:
        gates: values of i, f, g, o, ``[K, T, B, 4H]``.
        cells: c, ``[K, T, B, H]``.
        squashed: tanh(c), ``[K, T, B, H]``.
        matrix: W, ``[K, H, 4H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        cotangent: dE/dh at the last R steps, ``[K, R, B, H]``.
        delta: ``[K, T, B, 4H]``, written.
        carousel: dE/dc, ``[K, T, B, H]``, written.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_steps, n_batch, n_hidden = cells.shape[1:]
    n_read, n_rows, n_gates = cotangent.shape[1], bottom - top, 4 * n_hidden
    width = padded(n_hidden, cells.itemsize)
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    all_gates, all_cells, all_squashed = gates.reshape(-1), cells.reshape(-1), squashed.reshape(-1)
    matrices, masks, readings = matrix.reshape(-1), mask.reshape(-1), cotangent.reshape(-1)
    deltas, carousels = delta.reshape(-1), carousel.reshape(-1)
    net, d_hidden = np.zeros(n_rows * width, cells.dtype), np.zeros(size, cells.dtype)
    later, nothing = np.zeros(size, cells.dtype), np.zeros(size, cells.dtype)
    packed = np.zeros(n_gates * width, cells.dtype)
    # A literal is of double precision and would take the loops with it.
    one = cells.dtype.type(1)
    for k in range(first, last):
        # Of the transposed matrix.
        pack(matrices, k * n_hidden * n_gates, 1, n_gates, n_gates, n_hidden, packed)
        later[:] = 0
        for t in range(n_steps - 1, -1, -1):
            at = (k * n_steps + t) * stride + top * n_hidden
            if t == n_steps - 1:
                d_hidden[:] = 0
            else:
                following = 4 * (at + stride)
                product(False, deltas, following, n_gates, packed, net, n_rows, n_gates, width)
                for r in range(n_rows):
                    d_hidden[r * n_hidden : (r + 1) * n_hidden] = net[r * width : r * width + n_hidden]
                if masks.size > 0:
                    mask_t = masks[at + stride : at + stride + size]
                    for x in range(size):
                        d_hidden[x] *= mask_t[x]
            if t >= n_steps - n_read:
                read_at = (k * n_read + t - n_steps + n_read) * stride + top * n_hidden
                reading = readings[read_at : read_at + size]
                for x in range(size):
                    d_hidden[x] += reading[x]
            gate, signal = all_gates[4 * at : 4 * at + 4 * size], deltas[4 * at : 4 * at + 4 * size]
            flat, d_cell = all_squashed[at : at + size], carousels[at : at + size]
            cell = all_cells[at - stride : at - stride + size] if t > 0 else nothing
            for r in range(n_rows):
                row, signal_row = gate[r * n_gates : (r + 1) * n_gates], signal[r * n_gates : (r + 1) * n_gates]
                i, f = row[:n_hidden], row[n_hidden : 2 * n_hidden]
                g, o = row[2 * n_hidden : 3 * n_hidden], row[3 * n_hidden :]
                d_i, d_f = signal_row[:n_hidden], signal_row[n_hidden : 2 * n_hidden]
                d_g, d_o = signal_row[2 * n_hidden : 3 * n_hidden], signal_row[3 * n_hidden :]
                start, end = r * n_hidden, (r + 1) * n_hidden
                d_h, d_c, c_later = d_hidden[start:end], d_cell[start:end], later[start:end]
                c_flat, c_before = flat[start:end], cell[start:end]
                # A loop for each: one loop would write to so many arrays that LLVM leaves it to scalars.
                for j in range(n_hidden):
                    d_c[j] = c_later[j] + d_h[j] * o[j] * (one - c_flat[j] * c_flat[j])
                for j in range(n_hidden):
                    d_i[j] = d_c[j] * g[j] * i[j] * (one - i[j])
                for j in range(n_hidden):
                    d_f[j] = d_c[j] * c_before[j] * f[j] * (one - f[j])
                for j in range(n_hidden):
                    d_g[j] = d_c[j] * i[j] * (one - g[j] * g[j])
                for j in range(n_hidden):
                    d_o[j] = d_h[j] * c_flat[j] * o[j] * (one - o[j])
                for j in range(n_hidden):
                    c_later[j] = d_c[j] * f[j]
