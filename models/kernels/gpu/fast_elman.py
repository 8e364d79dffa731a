"""Elman's recurrence of means and variances under fast dropout, for a GPU; formulas as in ``models.moment``.

Tiles are units by rows, as in Elman's own.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from models.kernels.gpu.launch import Parting
from models.kernels.gpu.nonlinearity import function, slope, upper_tail
from models.kernels.gpu.tile import dot, following, load, preceding, reach, selected, store, weights, within
from models.kernels.interface import LOGISTIC, RECTIFIER, TANH
from models.moment import FAR, NOISELESS

_TANH, _RECTIFIER = tl.constexpr(TANH), tl.constexpr(RECTIFIER)
_SHRINKAGE = tl.constexpr({TANH: math.pi / 2, LOGISTIC: math.pi / 8, RECTIFIER: 0.0})
_DENSITY = tl.constexpr(1 / math.sqrt(2 * math.pi))
_FAR, _NOISELESS = tl.constexpr(FAR), tl.constexpr(NOISELESS)

FORWARD = Parting(n_units=64, n_rows=32, n_warps=4)
BACKWARD = Parting(n_units=64, n_rows=16, n_warps=4)
"""The fastest on an H200 of 16 or 32 rows and 4 or 8 warps whose tiles fit into the registers."""


@triton.jit(do_not_specialize=["code_stride", "n_choices", "n_steps", "n_kept", "n_batch"])
def forward(
    drive_mean,
    drive_variance,
    codes,
    code_stride,
    n_choices,
    n_steps,
    matrix,
    p_keep,
    means,
    mus,
    s2s,
    spreads,
    n_kept,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    KIND: tl.constexpr,
    GATHERED: tl.constexpr,
):
    """See ``models.kernels.Kernels.fast_elman_forward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    matrix += k * HIDDEN * HIDDEN
    kept = load(matrix, lanes, lanes, HIDDEN, HIDDEN, HIDDEN, 1)
    p = tl.load(p_keep + k)
    stride = n_batch * HIDDEN
    # Zeros stand for the state before the first step; they, too, are multiplied, as weights may be infinite.
    mean = tl.full((WIDTH, ROWS), 0.0, means.dtype.element_ty)
    spread = mean
    first, end = k * n_kept * stride, (k + 1) * n_kept * stride
    at = first
    for t in range(n_steps):
        n_before = n_batch if t > 0 else 0
        earlier = preceding(at, stride, first, end)
        start, places, bound = selected(
            drive_mean, codes, code_stride, n_choices, k, t, rows, n_steps, n_batch, HIDDEN, GATHERED
        )
        variance_start, _, _ = selected(
            drive_variance, codes, code_stride, n_choices, k, t, rows, n_steps, n_batch, HIDDEN, GATHERED
        )
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            real = (columns < HIDDEN)[:, None]
            mu = load(start, columns, places, HIDDEN, bound, 1, HIDDEN)
            s2 = load(variance_start, columns, places, HIDDEN, bound, 1, HIDDEN)
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                if BLOCKS > 1:
                    mean = load(means + earlier, inner, rows, HIDDEN, n_before, 1, HIDDEN)
                    spread = load(spreads + earlier, inner, rows, HIDDEN, n_before, 1, HIDDEN)
                tile = weights(kept, matrix, columns, inner, HIDDEN, HIDDEN, 1, BLOCKS)
                mu = dot(p * tile, mean, mu)
                s2 = dot(p * tile * tile, spread, s2)
            mean, variance = moments(mu, s2, KIND)
            mean = within(mean, real, HIDDEN, WIDTH)
            spread = within(variance + (1.0 - p) * mean * mean, real, HIDDEN, WIDTH)
            store(means + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, mean)
            store(mus + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, mu)
            store(s2s + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, s2)
            store(spreads + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, spread)
        if BLOCKS > 1:
            # What some threads wrote others read at the next step.
            tl.debug_barrier()
        at = following(at, stride, first, end)


@triton.jit(do_not_specialize=["n_steps", "n_batch", "n_read"])
def backward(
    means,
    mus,
    s2s,
    matrix,
    p_keep,
    cotangent,
    variance_cotangent,
    window,
    delta,
    epsilon,
    n_read,
    n_steps,
    n_batch,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
    KIND: tl.constexpr,
    TRUNCATED: tl.constexpr,
):
    """See ``models.kernels.Kernels.fast_elman_backward``."""
    k = tl.program_id(0).to(tl.int64)
    rows, lanes = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    matrix += k * HIDDEN * HIDDEN
    kept = load(matrix, lanes, lanes, HIDDEN, HIDDEN, HIDDEN, 1)
    p = tl.load(p_keep + k)
    stride = n_batch * HIDDEN
    steps, n_reached = reach(window, k, n_read, n_steps, TRUNCATED)
    d_mu = tl.full((WIDTH, ROWS), 0.0, means.dtype.element_ty)
    d_s2 = d_mu
    for step in range(n_reached):
        at = (k * n_steps + n_steps - 1 - step) * stride
        continued = step % steps > 0
        n_later = n_batch if step > 0 else 0
        for block in range(BLOCKS):
            columns = block * WIDTH + lanes
            real = (columns < HIDDEN)[:, None]
            mean = load(means + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN)
            # Before the products, during which they arrive.
            mu = load(mus + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN)
            s2 = load(s2s + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN)
            d_mean = tl.full((WIDTH, ROWS), 0.0, mean.dtype)
            d_variance = tl.full((WIDTH, ROWS), 0.0, mean.dtype)
            # At all steps, so that matrices are split into digits once; what must not arrive is left out afterwards.
            for other in range(BLOCKS):
                inner = other * WIDTH + lanes
                if BLOCKS > 1:
                    d_mu = load(delta + at + stride, inner, rows, HIDDEN, n_later, 1, HIDDEN)
                    d_s2 = load(epsilon + at + stride, inner, rows, HIDDEN, n_later, 1, HIDDEN)
                tile = weights(kept, matrix, columns, inner, HIDDEN, HIDDEN, 1, BLOCKS)
                d_mean = dot(p * tile, d_mu, d_mean)
                d_variance = dot(p * tile * tile, d_s2, d_variance)
            d_mean += 2.0 * (1.0 - p) * mean * d_variance
            d_mean, d_variance = tl.where(continued, d_mean, 0.0), tl.where(continued, d_variance, 0.0)
            if step < n_read:
                read_at = (k * n_read + n_read - 1 - step) * stride
                d_mean += load(cotangent + read_at, columns, rows, HIDDEN, n_batch, 1, HIDDEN)
                d_variance += load(variance_cotangent + read_at, columns, rows, HIDDEN, n_batch, 1, HIDDEN)
            mean_by_mu, mean_by_s2, variance_by_mu, variance_by_s2 = partials(mu, s2, mean, KIND)
            d_mu = within(d_mean * mean_by_mu + d_variance * variance_by_mu, real, HIDDEN, WIDTH)
            d_s2 = within(d_mean * mean_by_s2 + d_variance * variance_by_s2, real, HIDDEN, WIDTH)
            store(delta + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, d_mu)
            store(epsilon + at, columns, rows, HIDDEN, n_batch, 1, HIDDEN, d_s2)
        if BLOCKS > 1:
            tl.debug_barrier()


@triton.jit
def moments(mu, s2, KIND: tl.constexpr):
    """Mean and variance of a unit, see ``models.moment``."""
    if KIND == _RECTIFIER:
        s, density, above, below = normal(mu, s2)
        mean = s * density + mu * above
        mean = tl.where(mean < 0.0, 0.0, mean)
        variance = s2 * above - mean * (s * density - mu * below)
        return mean, tl.where(variance < 0.0, 0.0, variance)
    else:
        mean = function(mu / tl.sqrt(1.0 + _SHRINKAGE[KIND] * s2), KIND)
        q = slope(mean, KIND)
        return mean, q * (1.0 - 1.0 / tl.sqrt(1.0 + 2.0 * s2 * q))


@triton.jit
def partials(mu, s2, mean, KIND: tl.constexpr):
    """Derivatives of a unit's mean by those of its net input, then of its variance, see ``models.moment``."""
    if KIND == _RECTIFIER:
        s, density, above, below = normal(mu, s2)
        rate = density / s
        return above, 0.5 * rate, 2.0 * mean * below, above - mean * rate
    else:
        middle: tl.constexpr = 0.0 if KIND == _TANH else 0.5
        q = slope(mean, KIND)
        wide = 1.0 + _SHRINKAGE[KIND] * s2
        mean_by_mu = q / tl.sqrt(wide)
        mean_by_s2 = -0.5 * _SHRINKAGE[KIND] * mu * mean_by_mu / wide
        w = 1.0 / tl.sqrt(1.0 + 2.0 * s2 * q)
        z = 2.0 * (middle - mean) * (1.0 - 0.5 * (w + w * w * w))
        return mean_by_mu, mean_by_s2, z * mean_by_mu, q * q * w * w * w + z * mean_by_s2


@triton.jit
def normal(mu, s2):
    """Standard deviation s, phi(r), Phi(r) and 1 - Phi(r) at r = mu / s, finite also without noise."""
    quiet = s2 <= _NOISELESS
    s = tl.sqrt(tl.where(quiet, 1.0, s2))
    r = mu / s
    r = tl.where(r > _FAR, _FAR, r)
    r = tl.where(r < -_FAR, -_FAR, r)
    r = tl.where(quiet, tl.where(mu > 0.0, _FAR, -_FAR), r)
    tail = upper_tail(tl.abs(r))
    above = tl.where(r > 0.0, 1.0 - tail, tail)
    below = tl.where(r > 0.0, tail, 1.0 - tail)
    return s, _DENSITY * tl.exp(-0.5 * r * r), above, below
