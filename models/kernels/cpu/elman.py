"""Elman's recurrence through a whole sequence, compiled."""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.nonlinearity import logistic, rectifier, tanh
from models.kernels.cpu.product import pack, padded, product
from models.kernels.interface import LOGISTIC, TANH


@compiled
def forward(kind, drive, matrix, mask, states, first, last, top, bottom):
    """``h_t = f(drive_t + (m_t h_{t-1}) W)`` for members first to last and rows top to bottom of the batch.

    Args:
        kind: which f.
        drive: ``[K, T, B, H]``.
        matrix: W, ``[K, H, H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        states: h, ``[K, T, B, H]``, written.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_steps, n_batch, n_hidden = drive.shape[1:]
    width, n_rows = padded(n_hidden, drive.itemsize), bottom - top
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drives, matrices, masks, values = drive.reshape(-1), matrix.reshape(-1), mask.reshape(-1), states.reshape(-1)
    packed = np.zeros(n_hidden * width, drive.dtype)
    net, kept = np.zeros(n_rows * width, drive.dtype), np.zeros(size, drive.dtype)
    for k in range(first, last):
        pack(matrices, k * n_hidden * n_hidden, n_hidden, 1, n_hidden, n_hidden, packed)
        kept[:] = 0
        for t in range(n_steps):
            at = (k * n_steps + t) * stride + top * n_hidden
            source, source_at = values, at - stride
            if t == 0 or masks.size > 0:
                source, source_at = kept, 0
            if t > 0 and masks.size > 0:
                mask_t, before = masks[at : at + size], values[at - stride : at - stride + size]
                for x in range(size):
                    kept[x] = mask_t[x] * before[x]
            product(False, source, source_at, n_hidden, packed, net, n_rows, n_hidden, width)
            now = values[at : at + size]
            for r in range(n_rows):
                row, net_row = now[r * n_hidden : (r + 1) * n_hidden], net[r * width : r * width + n_hidden]
                drive_row = drives[at + r * n_hidden : at + (r + 1) * n_hidden]
                for j in range(n_hidden):
                    row[j] = net_row[j] + drive_row[j]
            if kind == TANH:
                for x in range(size):
                    now[x] = tanh(now[x])
            elif kind == LOGISTIC:
                for x in range(size):
                    now[x] = logistic(now[x])
            else:
                for x in range(size):
                    now[x] = rectifier(now[x])


@compiled
def backward(kind, states, matrix, mask, cotangent, delta, first, last, top, bottom):
    """``delta_t = f'(a_t) (dE/dh_t + m_{t+1} (delta_{t+1} W^T))``.

    Args:
        kind: which f.
        states: h, ``[K, T, B, H]``.
        matrix: W, ``[K, H, H]``.
        mask: m, ``[K, T, B, H]``, or empty.
        cotangent: dE/dh at the last R steps, ``[K, R, B, H]``.
        delta: ``[K, T, B, H]``, written.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_steps, n_batch, n_hidden = states.shape[1:]
    n_read, width, n_rows = cotangent.shape[1], padded(n_hidden, states.itemsize), bottom - top
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    values, matrices, masks = states.reshape(-1), matrix.reshape(-1), mask.reshape(-1)
    readings, deltas = cotangent.reshape(-1), delta.reshape(-1)
    net, packed = np.zeros(n_rows * width, states.dtype), np.zeros(n_hidden * width, states.dtype)
    # Literals are of double precision and would take the loops with them.
    zero, one = states.dtype.type(0), states.dtype.type(1)
    for k in range(first, last):
        # Of the transposed matrix.
        pack(matrices, k * n_hidden * n_hidden, 1, n_hidden, n_hidden, n_hidden, packed)
        for t in range(n_steps - 1, -1, -1):
            at = (k * n_steps + t) * stride + top * n_hidden
            now, value = deltas[at : at + size], values[at : at + size]
            if t == n_steps - 1:
                now[:] = 0
            else:
                product(False, deltas, at + stride, n_hidden, packed, net, n_rows, n_hidden, width)
                for r in range(n_rows):
                    now[r * n_hidden : (r + 1) * n_hidden] = net[r * width : r * width + n_hidden]
                if masks.size > 0:
                    mask_t = masks[at + stride : at + stride + size]
                    for x in range(size):
                        now[x] *= mask_t[x]
            if t >= n_steps - n_read:
                read_at = (k * n_read + t - n_steps + n_read) * stride + top * n_hidden
                reading = readings[read_at : read_at + size]
                for x in range(size):
                    now[x] += reading[x]
            if kind == TANH:
                for x in range(size):
                    now[x] *= one - value[x] * value[x]
            elif kind == LOGISTIC:
                for x in range(size):
                    now[x] *= value[x] * (one - value[x])
            else:
                for x in range(size):
                    now[x] *= one if value[x] > zero else zero
