"""Elman's recurrence of means and variances under fast dropout, compiled; formulas as in ``models.moment``."""

from __future__ import annotations

import math

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.cpu.gradient import first_reached, ring_step, ring_steps, settle_drive, settle_matrix
from models.kernels.cpu.nonlinearity import exp, logistic, tanh, upper_tail
from models.kernels.cpu.place import count_steps, drive_row, slot
from models.kernels.cpu.product import pack, product
from models.kernels.cpu.vectors import add_row, copy_rows, padded
from models.kernels.interface import LOGISTIC, TANH
from models.moment import FAR, NOISELESS

_TANH_SHRINKAGE, _LOGISTIC_SHRINKAGE = math.pi / 2, math.pi / 8
_DENSITY = 1 / math.sqrt(2 * math.pi)


@compiled
def forward(
    kind, drive_mean, drive_variance, codes, matrix, p_keep, means, mus, s2s, spreads, first, last, top, bottom
):
    """``(m_t, v_t)`` = moments of f(a), ``a ~ N(drive_mean + p m W, drive_variance + p (v + (1 - p) m^2) (W * W))``.

    Args:
        kind: which f.
        drive_mean: ``[K, N, H]``.
        drive_variance: ``[K, N, H]``.
        codes: row of the drive for each place, ``[K, T, B]`` or ``[1, T, B]``; empty where N = T B rows are in order.
        matrix: W, ``[K, H, H]``.
        p_keep: p, ``[K]``.
        means: m_t, ``[K, S, B, H]``, written: step t at t mod S, with S = T, or 2 or more for the last steps only.
        mus: mu_t, likewise.
        s2s: s2_t, likewise.
        spreads: ``v_t + (1 - p) m_t^2``, likewise.
        first: first member.
        last: one past the last member.
        top: first row.
        bottom: one past the last row.
    """
    n_kept, n_batch, n_hidden = means.shape[1:]
    n_steps = count_steps(drive_mean, codes, n_batch)
    width, n_rows = padded(n_hidden, drive_mean.itemsize), bottom - top
    size, stride = n_rows * n_hidden, n_batch * n_hidden
    drive_means, drive_variances = drive_mean.reshape(-1), drive_variance.reshape(-1)
    matrices = matrix.reshape(-1)
    kept, kept_square = np.zeros(n_hidden * width, drive_mean.dtype), np.zeros(n_hidden * width, drive_mean.dtype)
    all_means, all_mus, all_s2s, all_spreads = means.reshape(-1), mus.reshape(-1), s2s.reshape(-1), spreads.reshape(-1)
    net, net_square = np.zeros(n_rows * width, drive_mean.dtype), np.zeros(n_rows * width, drive_mean.dtype)
    start = np.zeros(size, drive_mean.dtype)
    number = drive_mean.dtype.type
    zero, half, one, two = number(0), number(0.5), number(1), number(2)
    shrinkage = number(_TANH_SHRINKAGE) if kind == TANH else number(_LOGISTIC_SHRINKAGE)
    for k in range(first, last):
        drop = one - p_keep[k]
        pack(matrices, k * n_hidden * n_hidden, n_hidden, 1, n_hidden, n_hidden, n_rows, kept)
        for x in range(kept.size):
            kept_square[x] = p_keep[k] * kept[x] * kept[x]
            kept[x] *= p_keep[k]
        for t in range(n_steps):
            at = slot(k, t, n_kept) * stride + top * n_hidden
            before = slot(k, t - 1, n_kept) * stride + top * n_hidden if t > 0 else 0
            from_means, from_spreads = all_means if t > 0 else start, all_spreads if t > 0 else start
            product(from_means, before, n_hidden, kept, net, 0, width, n_rows, n_hidden, n_hidden)
            product(from_spreads, before, n_hidden, kept_square, net_square, 0, width, n_rows, n_hidden, n_hidden)
            mean, mu = all_means[at : at + size], all_mus[at : at + size]
            s2, spread = all_s2s[at : at + size], all_spreads[at : at + size]
            for r in range(n_rows):
                place = (k * drive_mean.shape[1] + drive_row(codes, k, t, top + r, n_batch)) * n_hidden
                add_row(net, r * width, drive_means, place, mu, r * n_hidden, n_hidden)
                add_row(net_square, r * width, drive_variances, place, s2, r * n_hidden, n_hidden)
            if kind == TANH or kind == LOGISTIC:
                for x in range(size):
                    mean[x] = mu[x] / math.sqrt(one + shrinkage * s2[x])
                if kind == TANH:
                    for x in range(size):
                        mean[x] = tanh(mean[x])
                        spread[x] = one - mean[x] * mean[x]
                else:
                    for x in range(size):
                        mean[x] = logistic(mean[x])
                        spread[x] = mean[x] * (one - mean[x])
                for x in range(size):
                    w = one / math.sqrt(one + two * s2[x] * spread[x])
                    spread[x] = spread[x] * (one - w) + drop * mean[x] * mean[x]
            else:
                # Written out here and in the other pass: LLVM does not vectorise these lines as a function.
                for x in range(size):
                    quiet = s2[x] <= number(NOISELESS)
                    s = math.sqrt(one if quiet else s2[x])
                    ratio = mu[x] / s
                    ratio = number(FAR) if ratio > number(FAR) else ratio
                    ratio = -number(FAR) if ratio < -number(FAR) else ratio
                    far = number(FAR) if mu[x] > zero else -number(FAR)
                    ratio = far if quiet else ratio
                    tail = upper_tail(abs(ratio))
                    above = one - tail if ratio > zero else tail
                    below = tail if ratio > zero else one - tail
                    upward = s * number(_DENSITY) * exp(-half * ratio * ratio)
                    m = upward + mu[x] * above
                    m = zero if m < zero else m
                    v = s2[x] * above - m * (upward - mu[x] * below)
                    v = zero if v < zero else v
                    mean[x] = m
                    spread[x] = v + drop * m * m


@compiled
def backward(
    kind,
    means,
    mus,
    s2s,
    spreads,
    matrix,
    p_keep,
    cotangent,
    variance_cotangent,
    window,
    codes,
    delta,
    epsilon,
    d_mean_drive,
    d_variance_drive,
    d_matrix,
    first,
    last,
):
    """``dE/dm_t = p delta_{t+1} W^T + 2 (1 - p) m_t dE/dv_t`` and ``dE/dv_t = p epsilon_{t+1} (W * W)^T``.

    And the gradients; that by W is ``p (sum_t m_{t-1}^T delta_t + 2 W sum_t spread_{t-1}^T epsilon_t)``.

    Args:
        kind: which f.
        means: what ``forward`` wrote.
        mus: see means.
        s2s: see means.
        spreads: see means.
        matrix: W, ``[K, H, H]``.
        p_keep: p, ``[K]``.
        cotangent: what the last R steps add to dE/dm, ``[K, R, B, H]``.
        variance_cotangent: what they add to dE/dv when dE/dm is formed, likewise; or empty.
        window: steps of the windows in which errors flow back, int64 ``[K]``.
        codes: as in ``forward``.
        delta: dE/dmu, ``[K, T, B, H]``, written; or empty.
        epsilon: dE/ds2, likewise.
        d_mean_drive: gradient by the table of means, ``[K, N, H]``, written; empty where ``codes`` are.
        d_variance_drive: gradient by the table of variances, likewise.
        d_matrix: gradient by W, ``[K, H, H]``, written.
        first: first member.
        last: one past the last member.
    """
    n_steps, n_batch, n_hidden = means.shape[1:]
    n_read, width, size = cotangent.shape[1], padded(n_hidden, means.itemsize), n_batch * n_hidden
    n_held, step = ring_steps(n_steps, n_batch), ring_step(n_hidden, means.itemsize)
    matrices, readings, variance_readings = matrix.reshape(-1), cotangent.reshape(-1), variance_cotangent.reshape(-1)
    to_mean, to_variance = np.zeros(n_hidden * width, means.dtype), np.zeros(n_hidden * width, means.dtype)
    total, total_square = np.zeros(n_hidden * width, means.dtype), np.zeros(n_hidden * width, means.dtype)
    all_means, all_mus, all_s2s = means.reshape(-1), mus.reshape(-1), s2s.reshape(-1)
    ring, ring_square = np.zeros(n_held * n_batch * step, means.dtype), np.zeros(n_held * n_batch * step, means.dtype)
    net, net_square = np.zeros(n_batch * width, means.dtype), np.zeros(n_batch * width, means.dtype)
    d_mean, d_variance = np.zeros(size, means.dtype), np.zeros(size, means.dtype)
    d_mu, d_s2 = np.zeros(size, means.dtype), np.zeros(size, means.dtype)
    unmasked, kept = means[:0], net[:0]
    number = means.dtype.type
    zero, half, one, two = number(0), number(0.5), number(1), number(2)
    shrinkage = number(_TANH_SHRINKAGE) if kind == TANH else number(_LOGISTIC_SHRINKAGE)
    middle = zero if kind == TANH else half
    for k in range(first, last):
        twice_drop = two * (one - p_keep[k])
        # Of the transposed matrix.
        pack(matrices, k * n_hidden * n_hidden, 1, n_hidden, n_hidden, n_hidden, n_batch, to_mean)
        for x in range(to_mean.size):
            to_variance[x] = p_keep[k] * to_mean[x] * to_mean[x]
            to_mean[x] *= p_keep[k]
        total[:], total_square[:] = 0, 0
        d_mean_drive[k : k + 1], d_variance_drive[k : k + 1] = 0, 0
        reached, end = first_reached(n_steps, n_read, window[k]), n_steps
        delta[k : k + 1, :reached], epsilon[k : k + 1, :reached] = 0, 0
        while end > reached:
            begin = max(reached, end - n_held)
            for t in range(end - 1, begin - 1, -1):
                at = (k * n_steps + t) * size
                mean, mu, s2 = all_means[at : at + size], all_mus[at : at + size], all_s2s[at : at + size]
                if (n_steps - 1 - t) % window[k] == 0:
                    d_mean[:] = 0
                    d_variance[:] = 0
                else:
                    following = (t + 1 - begin) * n_batch * step if t + 1 < end else 0
                    product(ring, following, step, to_mean, net, 0, width, n_batch, n_hidden, n_hidden)
                    product(
                        ring_square, following, step, to_variance, net_square, 0, width, n_batch, n_hidden, n_hidden
                    )
                    copy_rows(net, 0, width, d_mean, 0, n_hidden, n_batch, n_hidden)
                    copy_rows(net_square, 0, width, d_variance, 0, n_hidden, n_batch, n_hidden)
                    for x in range(size):
                        d_mean[x] += twice_drop * mean[x] * d_variance[x]
                if t >= n_steps - n_read:
                    read_at = (k * n_read + t - n_steps + n_read) * size
                    reading = readings[read_at:][:size]
                    for x in range(size):
                        d_mean[x] += reading[x]
                    if variance_readings.size > 0:
                        variance_reading = variance_readings[read_at:][:size]
                        for x in range(size):
                            d_variance[x] += variance_reading[x]
                if kind == TANH or kind == LOGISTIC:
                    for x in range(size):
                        m = mean[x]
                        slope = one - m * m if kind == TANH else m * (one - m)
                        wide = one + shrinkage * s2[x]
                        m_by_mu = slope / math.sqrt(wide)
                        m_by_s2 = -half * shrinkage * mu[x] * m_by_mu / wide
                        w = one / math.sqrt(one + two * s2[x] * slope)
                        z = two * (middle - m) * (one - half * (w + w * w * w))
                        d_mu[x] = d_mean[x] * m_by_mu + d_variance[x] * z * m_by_mu
                        d_s2[x] = d_mean[x] * m_by_s2 + d_variance[x] * (slope * slope * w * w * w + z * m_by_s2)
                else:
                    for x in range(size):
                        quiet = s2[x] <= number(NOISELESS)
                        s = math.sqrt(one if quiet else s2[x])
                        ratio = mu[x] / s
                        ratio = number(FAR) if ratio > number(FAR) else ratio
                        ratio = -number(FAR) if ratio < -number(FAR) else ratio
                        far = number(FAR) if mu[x] > zero else -number(FAR)
                        ratio = far if quiet else ratio
                        tail = upper_tail(abs(ratio))
                        above = one - tail if ratio > zero else tail
                        below = tail if ratio > zero else one - tail
                        rate = number(_DENSITY) * exp(-half * ratio * ratio) / s
                        d_mu[x] = d_mean[x] * above + d_variance[x] * two * mean[x] * below
                        d_s2[x] = d_mean[x] * half * rate + d_variance[x] * (above - mean[x] * rate)
                place = (t - begin) * n_batch * step
                copy_rows(d_mu, 0, n_hidden, ring, place, step, n_batch, n_hidden)
                copy_rows(d_s2, 0, n_hidden, ring_square, place, step, n_batch, n_hidden)
            settle_drive(k, begin, end, n_batch, ring, step, 0, n_hidden, codes, delta, d_mean_drive)
            settle_drive(k, begin, end, n_batch, ring_square, step, 0, n_hidden, codes, epsilon, d_variance_drive)
            settle_matrix(k, begin, end, means, unmasked, kept, ring, step, total, n_hidden)
            settle_matrix(k, begin, end, spreads, unmasked, kept, ring_square, step, total_square, n_hidden)
            end = begin
        for i in range(n_hidden):
            for j in range(n_hidden):
                through_variance = two * matrix[k, i, j] * total_square[i * width + j]
                d_matrix[k, i, j] = p_keep[k] * (total[i * width + j] + through_variance)
