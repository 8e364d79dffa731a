"""Norm, clipping and update rule of a stack, compiled: two passes over each member's parameters."""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled

(
    CLIP_NORM,
    LEARNING_RATE,
    MOMENTUM,
    GRADIENT_SHARE,
    LOOKAHEAD,
    SQUARE_DECAY,
    ADAPTIVE,
    CORRECTED,
    N_COEFFICIENTS,
) = range(9)
"""Columns of a member's coefficients, as ``study.training.rule`` explains them, and their number."""


@compiled(reassociate=True)
def norms(gradient, norm, first, last):
    """2-norm of each row of ``gradient`` ``[K, P]`` into ``norm`` ``[K]``, float64; summed in float64.

    Args:
        gradient: see above.
        norm: see above, written.
        first: first member.
        last: one past the last member.
    """
    for k in range(first, last):
        row = gradient[k]
        total = 0.0
        for x in range(row.size):
            value = np.float64(row[x])
            total += value * value
        norm[k] = np.sqrt(total)


@compiled
def update(weights, gradient, velocity, square, coefficients, norm, n, epsilon, first, last):
    """Clip and apply one update to members first to last; see ``study.training.rule.apply_update``.

    Args:
        weights: ``[K, P]``, updated.
        gradient: ``[K, P]``.
        velocity: ``[K, P]``, updated.
        square: ``[K, P]``, updated where the rule is adaptive.
        coefficients: ``[K, N_COEFFICIENTS]``, float64.
        norm: of the gradient, ``[K]``.
        n: number of this update, counted from 1.
        epsilon: added to the root mean square.
        first: first member.
        last: one past the last member.
    """
    kind = weights.dtype.type
    for k in range(first, last):
        own = coefficients[k]
        scale64 = own[CLIP_NORM] / norm[k]
        # NaN stays: a comparison with it is false.
        scale = kind(1.0 if scale64 > 1.0 else scale64)
        rate = own[LEARNING_RATE]
        if own[CORRECTED] > 0:
            rate /= 1.0 - own[MOMENTUM] ** n
        size, mu, share, ahead = kind(rate), kind(own[MOMENTUM]), kind(own[GRADIENT_SHARE]), kind(own[LOOKAHEAD])
        w, g, v = weights[k], gradient[k], velocity[k]
        if own[ADAPTIVE] > 0:
            decay, fresh = kind(own[SQUARE_DECAY]), kind(1.0 - own[SQUARE_DECAY])
            correction = kind(1.0 / (1.0 - own[SQUARE_DECAY] ** n) if own[CORRECTED] > 0 else 1.0)
            small, q = kind(epsilon), square[k]
            for x in range(w.size):
                clipped = g[x] * scale
                v[x] = v[x] * mu + clipped * share
                q[x] = q[x] * decay + clipped * clipped * fresh
                w[x] -= size * v[x] / (np.sqrt(q[x] * correction) + small)
        elif ahead > 0:
            for x in range(w.size):
                clipped = g[x] * scale
                v[x] = v[x] * mu + clipped * share
                w[x] -= size * (clipped + mu * v[x])
        else:
            for x in range(w.size):
                clipped = g[x] * scale
                v[x] = v[x] * mu + clipped * share
                w[x] -= size * v[x]
