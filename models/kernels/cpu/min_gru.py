"""The minimal gated recurrent unit through a whole sequence, compiled; blocks z, n as in ``models.min_gru``.

The gates' values are kept gate by gate, as in ``models.kernels.cpu.lstm``.
"""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.gradient import first_reached, ring_step, ring_steps, settle_drive
from models.kernels.cpu.nonlinearity import logistic
from models.kernels.cpu.place import count_steps, drive_row, slot
from models.kernels.cpu.vectors import copy_row, copy_rows


@compiled
def forward(drive, codes, states, gates, first, last, top, bottom):
    """``h_t = n_t + z_t (h_{t-1} - n_t)`` for members first to last and rows top to bottom.

    Args:
        drive: ``[K, N, 2H]``.
        codes: row of the drive for each place, ``[K, T, B]`` or ``[1, T, B]``; empty where N = T B rows are in order.
        states: h, ``[K, S, B, H]``, written: step t at t mod S, with S = T, or 2 or more for the last steps only.
        gates: values of z, n, ``[K, S, 2, B, H]``, written.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_kept, n_batch, n_hidden = states.shape[1:]
    n_steps = count_steps(drive, codes, n_batch)
    size, stride = (bottom - top) * n_hidden, n_batch * n_hidden
    drives, values, all_gates = drive.reshape(-1), states.reshape(-1), gates.reshape(-1)
    nothing = np.zeros(size, drive.dtype)
    for k in range(first, last):
        for t in range(n_steps):
            at, earlier = slot(k, t, n_kept) * stride + top * n_hidden, slot(k, t - 1, n_kept) * stride + top * n_hidden
            gate_t = all_gates[slot(k, t, n_kept) * 2 * stride + top * n_hidden :]
            z, n = gate_t[:size], gate_t[stride:][:size]
            for r in range(bottom - top):
                place = (k * drive.shape[1] + drive_row(codes, k, t, top + r, n_batch)) * 2 * n_hidden
                copy_row(drives, place, z, r * n_hidden, n_hidden)
                copy_row(drives, place + n_hidden, n, r * n_hidden, n_hidden)
            _units_forward(values[earlier:][:size] if t > 0 else nothing, z, n, values[at : at + size])


@compiled
def _units_forward(before, z, n, hidden):
    """What a step does to single units; z holds its net input before."""
    for x in range(z.size):
        z_x = logistic(z[x])
        z[x], hidden[x] = z_x, n[x] + z_x * (before[x] - n[x])


@compiled
def _units_backward(before, z, n, d_hidden, signal):
    """The same, backwards; ``d_hidden`` moves on to the state before."""
    size = z.size
    one = z.dtype.type(1)
    for x in range(size):
        d_h, share = d_hidden[x], one - z[x]
        signal[x], signal[size + x] = d_h * (before[x] - n[x]) * z[x] * share, d_h * share
        d_hidden[x] = d_h * z[x]


@compiled
def backward(states, gates, cotangent, window, codes, delta, d_drive, first, last):
    """Error signals of the two net inputs, and the gradient; see ``models.min_gru.MinGru.backward``.

    Args:
        states: h, ``[K, T, B, H]``.
        gates: values of z, n, ``[K, T, 2, B, H]``.
        cotangent: dE/dh at the last R steps, ``[K, R, B, H]``.
        window: steps of the windows in which errors flow back, int64 ``[K]``.
        codes: as in ``forward``.
        delta: ``[K, T, B, 2H]``, written; or empty.
        d_drive: gradient by the drive's table, ``[K, N, 2H]``, written; empty where ``codes`` are.
        first: first member.
        last: one past the last member.
    """
    n_steps, n_batch, n_hidden = states.shape[1:]
    n_read, n_gates, size = cotangent.shape[1], 2 * n_hidden, n_batch * n_hidden
    n_held, step = ring_steps(n_steps, n_batch), ring_step(n_gates, states.itemsize)
    values, all_gates, readings = states.reshape(-1), gates.reshape(-1), cotangent.reshape(-1)
    ring, signal = np.zeros(n_held * n_batch * step, states.dtype), np.zeros(2 * size, states.dtype)
    d_hidden, nothing = np.zeros(size, states.dtype), np.zeros(size, states.dtype)
    for k in range(first, last):
        d_drive[k : k + 1] = 0
        reached, end = first_reached(n_steps, n_read, window[k]), n_steps
        delta[k : k + 1, :reached] = 0
        while end > reached:
            begin = max(reached, end - n_held)
            for t in range(end - 1, begin - 1, -1):
                at = (k * n_steps + t) * size
                if (n_steps - 1 - t) % window[k] == 0:
                    d_hidden[:] = 0
                if t >= n_steps - n_read:
                    reading = readings[(k * n_read + t - n_steps + n_read) * size :][:size]
                    for x in range(size):
                        d_hidden[x] += reading[x]
                z, n = all_gates[2 * at :][:size], all_gates[2 * at + size :][:size]
                _units_backward(values[at - size : at] if t > 0 else nothing, z, n, d_hidden, signal)
                place = (t - begin) * n_batch * step
                for gate in range(2):
                    copy_rows(signal, gate * size, n_hidden, ring, place + gate * n_hidden, step, n_batch, n_hidden)
            settle_drive(k, begin, end, n_batch, ring, step, 0, n_gates, codes, delta, d_drive)
            end = begin
