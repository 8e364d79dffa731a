"""Long short-term memory through a whole sequence, compiled; blocks i, f, g, o as in ``models.lstm``.

Where there are three blocks i, g, o, the recurrence is that of ``models.lstm_1997``. The gates' values are kept gate by
gate, ``[K, T, G, B, H]``: one long loop then does all that happens to a unit, where
rows of single gates would leave remainders that fill no vector.
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
def forward(drive, codes, matrix, mask, states, gates, cells, first, last, top, bottom):
    """``c_t = f_t c_{t-1} + i_t g_t``, ``h_t = o_t tanh(c_t)`` for members first to last and rows top to bottom.

    Args:
        drive: ``[K, N, G*H]``.
        codes: row of the drive for each place, ``[K, T, B]`` or ``[1, T, B]``; empty where N = T B rows are in order.
        matrix: W, ``[K, H, G*H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        states: h, ``[K, S, B, H]``, written: step t at t mod S, with S = T, or 2 or more for the last steps only.
        gates: values of i, f, g, o or of i, g, o, ``[K, S, G, B, H]``, written.
        cells: c, ``[K, S, B, H]``, written.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    (n_kept, n_batch, n_hidden), n_blocks = states.shape[1:], gates.shape[2]
    n_steps, n_gates, n_rows = count_steps(drive, codes, n_batch), n_blocks * n_hidden, bottom - top
    width = padded(n_gates, drive.itemsize)
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drives, matrices, masks, values = drive.reshape(-1), matrix.reshape(-1), mask.reshape(-1), states.reshape(-1)
    all_gates, all_cells = gates.reshape(-1), cells.reshape(-1)
    packed = np.zeros(n_hidden * width, drive.dtype)
    net, kept = np.zeros(n_rows * width, drive.dtype), np.zeros(size, drive.dtype)
    opened, nothing = np.zeros(n_blocks * size, drive.dtype), np.zeros(size, drive.dtype)
    for k in range(first, last):
        pack(matrices, k * n_hidden * n_gates, n_gates, 1, n_hidden, n_gates, n_rows, packed)
        kept[:] = 0
        for t in range(n_steps):
            at, earlier = slot(k, t, n_kept) * stride + top * n_hidden, slot(k, t - 1, n_kept) * stride + top * n_hidden
            source, source_at = values, earlier
            if t == 0 or masks.size > 0:
                source, source_at = kept, 0
            if t > 0 and masks.size > 0:
                mask_t, hidden = masks[slot(k, t, n_steps) * stride + top * n_hidden :][:size], values[earlier:][:size]
                for x in range(size):
                    kept[x] = mask_t[x] * hidden[x]
            product(source, source_at, n_hidden, packed, net, 0, width, n_rows, n_hidden, n_gates)
            for r in range(n_rows):
                place = (k * drive.shape[1] + drive_row(codes, k, t, top + r, n_batch)) * n_gates
                for gate in range(n_blocks):
                    start, of_gate = gate * n_hidden, gate * size + r * n_hidden
                    add_row(net, r * width + start, drives, place + start, opened, of_gate, n_hidden)
            before = all_cells[earlier : earlier + size] if t > 0 else nothing
            cell, now = all_cells[at : at + size], values[at : at + size]
            gate_t = all_gates[slot(k, t, n_kept) * n_blocks * stride + top * n_hidden :]
            one, two, three = gate_t[:size], gate_t[stride:][:size], gate_t[2 * stride :][:size]
            if n_blocks == 4:
                _units_forward(opened, before, one, two, three, gate_t[3 * stride :][:size], cell, now)
            else:
                _units_forward_1997(opened, before, one, two, three, cell, now)


@compiled
def _units_forward(opened, before, i, f, g, o, cell, hidden):
    """What a step does to single units; a function of its own, or LLVM would leave the loop to scalars."""
    size = cell.size
    for x in range(size):
        i_x, f_x = logistic(opened[x]), logistic(opened[size + x])
        g_x, o_x = tanh(opened[2 * size + x]), logistic(opened[3 * size + x])
        c = f_x * before[x] + i_x * g_x
        i[x], f[x], g[x], o[x] = i_x, f_x, g_x, o_x
        cell[x], hidden[x] = c, o_x * tanh(c)


@compiled
def _units_backward(gates, cell, before, d_hidden, later, signal, d_cell):
    """The same, backwards; to take tanh(c) anew costs less than to keep it."""
    size = cell.size
    one = cell.dtype.type(1)
    for x in range(size):
        i, f, g, o = gates[x], gates[size + x], gates[2 * size + x], gates[3 * size + x]
        d_h, squash = d_hidden[x], tanh(cell[x])
        d_c = later[x] + d_h * o * (one - squash * squash)
        signal[x] = d_c * g * i * (one - i)
        signal[size + x] = d_c * before[x] * f * (one - f)
        signal[2 * size + x] = d_c * i * (one - g * g)
        signal[3 * size + x] = d_h * squash * o * (one - o)
        d_cell[x], later[x] = d_c, d_c * f


@compiled
def _units_forward_1997(opened, before, i, g, o, cell, hidden):
    """As ``_units_forward``, without forget gate."""
    size = cell.size
    half = cell.dtype.type(0.5)
    for x in range(size):
        i_x, half_g, o_x = logistic(opened[x]), tanh(half * opened[size + x]), logistic(opened[2 * size + x])
        g_x = half_g + half_g
        c = before[x] + i_x * g_x
        i[x], g[x], o[x] = i_x, g_x, o_x
        cell[x], hidden[x] = c, o_x * tanh(half * c)


@compiled
def _units_backward_1997(gates, cell, d_hidden, later, signal, d_cell):
    """The same, backwards."""
    size = cell.size
    one, half = cell.dtype.type(1), cell.dtype.type(0.5)
    for x in range(size):
        i, half_g, o = gates[x], half * gates[size + x], gates[2 * size + x]
        d_h, squash = d_hidden[x], tanh(half * cell[x])
        d_c = later[x] + half * d_h * o * (one - squash * squash)
        signal[x] = d_c * (half_g + half_g) * i * (one - i)
        signal[size + x] = d_c * i * (one - half_g * half_g)
        signal[2 * size + x] = d_h * squash * o * (one - o)
        d_cell[x], later[x] = d_c, d_c


@compiled
def backward(
    truncated,
    states,
    gates,
    cells,
    matrix,
    mask,
    cotangent,
    window,
    codes,
    delta,
    carousel,
    d_drive,
    d_matrix,
    first,
    last,
):
    """Error signals of the net inputs and of the cell, and the gradients; see ``models.lstm.Lstm.backward``.

    Args:
        truncated: whether error signals end at the net inputs and do not reach the state before.
        states: h, ``[K, T, B, H]``.
        gates: values of i, f, g, o or of i, g, o, ``[K, T, G, B, H]``.
        cells: c, ``[K, T, B, H]``.
        matrix: W, ``[K, H, G*H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        cotangent: dE/dh at the last R steps, ``[K, R, B, H]``.
        window: steps of the windows in which errors flow back, int64 ``[K]``.
        codes: as in ``forward``.
        delta: ``[K, T, B, G*H]``, written; or empty.
        carousel: dE/dc, ``[K, T, B, H]``, written; or empty.
        d_drive: gradient by the drive's table, ``[K, N, G*H]``, written; empty where ``codes`` are.
        d_matrix: gradient by W, ``[K, H, G*H]``, written.
        first: first member.
        last: one past the last member.
    """
    (n_steps, n_batch, n_hidden), n_blocks = states.shape[1:], gates.shape[2]
    n_read, n_gates, size = cotangent.shape[1], n_blocks * n_hidden, n_batch * n_hidden
    width, wide = padded(n_hidden, states.itemsize), padded(n_gates, states.itemsize)
    n_held, step = ring_steps(n_steps, n_batch), ring_step(n_gates, states.itemsize)
    all_gates, all_cells = gates.reshape(-1), cells.reshape(-1)
    matrices, masks, readings = matrix.reshape(-1), mask.reshape(-1), cotangent.reshape(-1)
    carousels, d_matrices = carousel.reshape(-1), d_matrix.reshape(-1)
    ring, kept = np.zeros(n_held * n_batch * step, states.dtype), np.zeros(n_held * size, states.dtype)
    net, d_hidden = np.zeros(n_batch * width, states.dtype), np.zeros(size, states.dtype)
    d_cell, later, nothing = np.zeros(size, states.dtype), np.zeros(size, states.dtype), np.zeros(size, states.dtype)
    signal = np.zeros(n_blocks * size, states.dtype)
    packed, total = np.zeros(n_gates * width, states.dtype), np.zeros(n_hidden * wide, states.dtype)
    for k in range(first, last):
        # Of the transposed matrix.
        pack(matrices, k * n_hidden * n_gates, 1, n_gates, n_gates, n_hidden, n_batch, packed)
        total[:] = 0
        d_drive[k : k + 1] = 0
        reached, end = first_reached(n_steps, n_read, window[k]), n_steps
        delta[k : k + 1, :reached], carousel[k : k + 1, :reached] = 0, 0
        while end > reached:
            begin = max(reached, end - n_held)
            for t in range(end - 1, begin - 1, -1):
                at = (k * n_steps + t) * size
                ends = (n_steps - 1 - t) % window[k] == 0
                if ends:
                    later[:] = 0
                if ends or truncated:
                    d_hidden[:] = 0
                else:
                    following = (t + 1 - begin) * n_batch * step if t + 1 < end else 0
                    product(ring, following, step, packed, net, 0, width, n_batch, n_gates, n_hidden)
                    copy_rows(net, 0, width, d_hidden, 0, n_hidden, n_batch, n_hidden)
                    if masks.size > 0:
                        mask_t = masks[at + size : at + 2 * size]
                        for x in range(size):
                            d_hidden[x] *= mask_t[x]
                if t >= n_steps - n_read:
                    reading = readings[(k * n_read + t - n_steps + n_read) * size :][:size]
                    for x in range(size):
                        d_hidden[x] += reading[x]
                gate_t, cell = all_gates[n_blocks * at : n_blocks * (at + size)], all_cells[at : at + size]
                if n_blocks == 4:
                    before = all_cells[at - size : at] if t > 0 else nothing
                    _units_backward(gate_t, cell, before, d_hidden, later, signal, d_cell)
                else:
                    _units_backward_1997(gate_t, cell, d_hidden, later, signal, d_cell)
                if carousels.size > 0:
                    copy_row(d_cell, 0, carousels, at, size)
                place = (t - begin) * n_batch * step
                for gate in range(n_blocks):
                    copy_rows(signal, gate * size, n_hidden, ring, place + gate * n_hidden, step, n_batch, n_hidden)
            settle_drive(k, begin, end, n_batch, ring, step, 0, n_gates, codes, delta, d_drive)
            settle_matrix(k, begin, end, states, mask, kept, ring, step, total, n_gates)
            end = begin
        copy_rows(total, 0, wide, d_matrices, k * n_hidden * n_gates, n_gates, n_hidden, n_gates)
