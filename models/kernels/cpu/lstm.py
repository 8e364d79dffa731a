"""Long short-term memory through a whole sequence, compiled; blocks i, f, g, o as in ``models.lstm``."""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.nonlinearity import logistic, tanh
from models.kernels.cpu.product import product


@compiled
def forward(drive, matrix, mask, states, gates, cells, squashed, first, last, top, bottom):
    """``c_t = f_t c_{t-1} + i_t g_t``, ``h_t = o_t tanh(c_t)`` for members first to last and rows top to bottom.

    Args:
        drive: ``[K, T, B, 4H]``.
        matrix: W with padded rows, ``[K, H, width]``.
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
    width, n_rows, n_gates = matrix.shape[2], bottom - top, 4 * n_hidden
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drives, matrices, masks, values = drive.reshape(-1), matrix.reshape(-1), mask.reshape(-1), states.reshape(-1)
    all_gates, all_cells, all_squashed = gates.reshape(-1), cells.reshape(-1), squashed.reshape(-1)
    net, kept = np.zeros(n_rows * width, drive.dtype), np.zeros(size, drive.dtype)
    candidate, before = np.zeros(size, drive.dtype), np.zeros(size, drive.dtype)
    zero = drive.dtype.type(0)
    for k in range(first, last):
        before[:] = 0
        for t in range(n_steps):
            at = (k * n_steps + t) * stride + top * n_hidden
            source, source_at = values, at - stride
            if t == 0 or masks.size > 0:
                source, source_at = kept, 0
                for x in range(size):
                    kept[x] = masks[at + x] * values[at - stride + x] if t > 0 else zero
            product(source, source_at, n_hidden, matrices, k * n_hidden * width, net, n_rows, n_hidden, width)
            gate = all_gates[4 * at : 4 * at + 4 * size]
            cell, flat = all_cells[at : at + size], all_squashed[at : at + size]
            for r in range(n_rows):
                for j in range(n_gates):
                    gate[r * n_gates + j] = net[r * width + j] + drives[4 * at + r * n_gates + j]
                for j in range(n_hidden):
                    candidate[r * n_hidden + j] = gate[r * n_gates + 2 * n_hidden + j]
            # Over all blocks and the candidate's again: long loops without remainders take less time than short ones.
            for x in range(4 * size):
                gate[x] = logistic(gate[x])
            for x in range(size):
                candidate[x] = tanh(candidate[x])
            for r in range(n_rows):
                i = r * n_gates
                f, g = i + n_hidden, i + 2 * n_hidden
                for j in range(n_hidden):
                    x = r * n_hidden + j
                    gate[g + j] = candidate[x]
                    cell[x] = gate[f + j] * before[x] + gate[i + j] * candidate[x]
            for x in range(size):
                before[x] = cell[x]
                flat[x] = tanh(cell[x])
            for r in range(n_rows):
                o = r * n_gates + 3 * n_hidden
                for j in range(n_hidden):
                    values[at + r * n_hidden + j] = gate[o + j] * flat[r * n_hidden + j]


@compiled
def backward(gates, cells, squashed, transposed, mask, cotangent, delta, carousel, first, last, top, bottom):
    """Error signals of the four net inputs and of the cell, see ``models.lstm.Lstm.backward``.

    Args:
        gates: values of i, f, g, o, ``[K, T, B, 4H]``.
        cells: c, ``[K, T, B, H]``.
        squashed: tanh(c), ``[K, T, B, H]``.
        transposed: W^T with padded rows, ``[K, 4H, width]``.
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
    n_read, width, n_rows, n_gates = cotangent.shape[1], transposed.shape[2], bottom - top, 4 * n_hidden
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    all_gates, all_cells, all_squashed = gates.reshape(-1), cells.reshape(-1), squashed.reshape(-1)
    matrices, masks, readings = transposed.reshape(-1), mask.reshape(-1), cotangent.reshape(-1)
    deltas, carousels = delta.reshape(-1), carousel.reshape(-1)
    net, d_hidden = np.zeros(n_rows * width, cells.dtype), np.zeros(size, cells.dtype)
    later, nothing = np.zeros(size, cells.dtype), np.zeros(size, cells.dtype)
    # A literal is of double precision and would take the loops with it.
    one = cells.dtype.type(1)
    for k in range(first, last):
        later[:] = 0
        for t in range(n_steps - 1, -1, -1):
            at = (k * n_steps + t) * stride + top * n_hidden
            if t == n_steps - 1:
                d_hidden[:] = 0
            else:
                following = 4 * (at + stride)
                product(deltas, following, n_gates, matrices, k * n_gates * width, net, n_rows, n_gates, width)
                for r in range(n_rows):
                    for j in range(n_hidden):
                        d_hidden[r * n_hidden + j] = net[r * width + j]
                if masks.size > 0:
                    for x in range(size):
                        d_hidden[x] *= masks[at + stride + x]
            if t >= n_steps - n_read:
                read_at = (k * n_read + t - n_steps + n_read) * stride + top * n_hidden
                for x in range(size):
                    d_hidden[x] += readings[read_at + x]
            gate, signal = all_gates[4 * at : 4 * at + 4 * size], deltas[4 * at : 4 * at + 4 * size]
            flat, d_cell = all_squashed[at : at + size], carousels[at : at + size]
            cell = all_cells[at - stride : at - stride + size] if t > 0 else nothing
            for r in range(n_rows):
                i = r * n_gates
                f, g, o = i + n_hidden, i + 2 * n_hidden, i + 3 * n_hidden
                for j in range(n_hidden):
                    x = r * n_hidden + j
                    i_t, f_t, g_t, o_t = gate[i + j], gate[f + j], gate[g + j], gate[o + j]
                    d_c = later[x] + d_hidden[x] * o_t * (one - flat[x] * flat[x])
                    signal[i + j] = d_c * g_t * i_t * (one - i_t)
                    signal[f + j] = d_c * cell[x] * f_t * (one - f_t)
                    signal[g + j] = d_c * i_t * (one - g_t * g_t)
                    signal[o + j] = d_hidden[x] * flat[x] * o_t * (one - o_t)
                    d_cell[x] = d_c
                    later[x] = d_c * f_t
