"""Norm, clipping, decay and update rule of a stack, compiled: two or three passes over each member's parameters."""

from __future__ import annotations

import numpy as np

from models.kernels.coefficients import (
    ADAPTIVE,
    BIAS,
    CENTRED,
    CLIP_NORM,
    CORRECTED,
    FALLBACK,
    GRADIENT_SHARE,
    LARGEST_NORM,
    LEARNING_RATE,
    LOOKAHEAD,
    MOMENTUM,
    RECURRENT,
    SQUARE_DECAY,
    WEIGHT_DECAY,
)
from models.kernels.cpu.compiled import compiled


@compiled(reassociate=True)
def _norms(gradient, norm, first, last):
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
def _prepare(weights, gradient, roles, scale, decay, fallback, result):
    """Gradient of one member with clipping, fallback and weight decay into ``result``, all ``[P]``.

    Args:
        weights: see above.
        gradient: see above.
        roles: of the parameters.
        scale: factor of the gradient, unless there is a fallback.
        decay: factor of the weights that are not biases, added.
        fallback: factor of the recurrent matrix in the gradient's place where it is not 0.
        result: written.
    """
    zero = weights.dtype.type(0.0)
    for x in range(weights.size):
        given = gradient[x] * scale
        if fallback > 0:
            given = fallback * weights[x] if roles[x] == RECURRENT else zero
        result[x] = given if roles[x] == BIAS else given + decay * weights[x]


@compiled
def update(weights, gradient, velocity, square, coefficients, roles, norm, n, epsilon, first, last):
    """Clip and apply one update to members first to last; see ``study.training.rule.apply_update``.

    Args:
        weights: ``[K, P]``, updated.
        gradient: ``[K, P]``.
        velocity: ``[K, P]``, updated.
        square: ``[K, P]``, updated where the rule is adaptive.
        coefficients: ``[K, N_COEFFICIENTS]``, float64.
        roles: of the parameters, ``[P]``.
        norm: of the gradient before clipping, ``[K]``, float64, written.
        n: number of this update, counted from 1.
        epsilon: added to the root mean square.
        first: first member.
        last: one past the last member.
    """
    kind = weights.dtype.type
    _norms(gradient, norm, first, last)
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
        # Written so that NaN is not trusted.
        fallback = kind(0.0 if norm[k] <= LARGEST_NORM else own[FALLBACK])
        if fallback > 0 or own[WEIGHT_DECAY] > 0:
            g = np.empty_like(w)
            _prepare(w, gradient[k], roles, scale, kind(own[WEIGHT_DECAY]), fallback, g)
            scale = kind(1.0)
        if own[CENTRED] > 0:
            decay, fresh = kind(own[SQUARE_DECAY]), kind(1.0 - own[SQUARE_DECAY])
            small, q = kind(epsilon), square[k]
            for x in range(w.size):
                clipped = g[x] * scale
                apart = clipped - v[x]
                v[x] = v[x] * mu + clipped * share
                q[x] = (q[x] + apart * apart * fresh) * decay
                w[x] -= size * clipped / (np.sqrt(q[x]) + small)
        elif own[ADAPTIVE] > 0:
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
