"""Clipping, decay and update rule of a stack, for a GPU: one pass over all parameters, which come in blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels import coefficients as columns

BLOCK = 1024
"""Parameters that one program works on."""

_CLIP_NORM, _LEARNING_RATE = tl.constexpr(columns.CLIP_NORM), tl.constexpr(columns.LEARNING_RATE)
_MOMENTUM, _GRADIENT_SHARE = tl.constexpr(columns.MOMENTUM), tl.constexpr(columns.GRADIENT_SHARE)
_LOOKAHEAD, _SQUARE_DECAY = tl.constexpr(columns.LOOKAHEAD), tl.constexpr(columns.SQUARE_DECAY)
_ADAPTIVE, _CORRECTED = tl.constexpr(columns.ADAPTIVE), tl.constexpr(columns.CORRECTED)
_CENTRED, _WEIGHT_DECAY = tl.constexpr(columns.CENTRED), tl.constexpr(columns.WEIGHT_DECAY)
_FALLBACK, _N_COEFFICIENTS = tl.constexpr(columns.FALLBACK), tl.constexpr(columns.N_COEFFICIENTS)
_BIAS, _RECURRENT = tl.constexpr(columns.BIAS), tl.constexpr(columns.RECURRENT)
_LARGEST_NORM = tl.constexpr(columns.LARGEST_NORM)


def apply_rule(
    weights: Tensor,
    gradient: Tensor,
    velocity: Tensor,
    square: Tensor,
    coefficients: Tensor,
    roles: Tensor,
    norm: Tensor,
    n_updates: Tensor,
    epsilon: float,
) -> None:
    """See ``models.kernels.Kernels``."""
    torch.linalg.vector_norm(gradient, dim=1, dtype=norm.dtype, out=norm)
    n_members, n_parameters = weights.shape
    grid = (triton.cdiv(n_parameters, BLOCK), n_members)
    held = (weights, gradient, velocity, square, coefficients, roles, norm, n_updates, n_parameters)
    update[grid](*held, EPSILON=epsilon, BLOCK=BLOCK)


@triton.jit(do_not_specialize=["n_parameters"])
def update(
    weights,
    gradient,
    velocity,
    square,
    coefficients,
    roles,
    norm,
    n_updates,
    n_parameters,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One update of a block of a member's parameters, see ``study.training.rule.apply_update``."""
    k = tl.program_id(1).to(tl.int64)
    own, n = coefficients + k * _N_COEFFICIENTS, tl.load(n_updates)
    size, found = tl.load(norm + k), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, at = found < n_parameters, k * n_parameters + found
    w, g = tl.load(weights + at, mask=inside, other=0.0), tl.load(gradient + at, mask=inside, other=0.0)
    v, q = tl.load(velocity + at, mask=inside, other=0.0), tl.load(square + at, mask=inside, other=0.0)
    role = tl.load(roles + found, mask=inside, other=0)
    momentum, square_decay = tl.load(own + _MOMENTUM), tl.load(own + _SQUARE_DECAY)
    corrected = tl.load(own + _CORRECTED) > 0
    rate, correction = tl.load(own + _LEARNING_RATE), 1.0
    rate = tl.where(corrected, rate / (1.0 - power(momentum, n)), rate).to(w.dtype)
    correction = tl.where(corrected, 1.0 / (1.0 - power(square_decay, n)), 1.0).to(w.dtype)
    fresh, mu, decay = (1.0 - square_decay).to(w.dtype), momentum.to(w.dtype), square_decay.to(w.dtype)
    # Comparisons with NaN are false: it stays where it scales, and is not trusted where it is measured.
    scale = tl.load(own + _CLIP_NORM) / size
    g *= tl.where(scale > 1.0, 1.0, scale).to(w.dtype)
    fallback = tl.load(own + _FALLBACK).to(w.dtype)
    replaced = (fallback > 0) & ((size <= _LARGEST_NORM) == 0)
    g = tl.where(replaced, tl.where(role == _RECURRENT, fallback * w, 0.0), g)
    g += tl.where(role == _BIAS, 0.0, tl.load(own + _WEIGHT_DECAY).to(w.dtype) * w)
    apart = g - v
    v = v * mu + g * tl.load(own + _GRADIENT_SHARE).to(w.dtype)
    direction = tl.where(tl.load(own + _LOOKAHEAD) > 0, g + mu * v, v)
    if tl.load(own + _ADAPTIVE) > 0:
        if tl.load(own + _CENTRED) > 0:
            direction = g
            q = (q + apart * apart * fresh) * decay
        else:
            q = q * decay + g * g * fresh
        direction /= tl.sqrt(q * correction) + EPSILON
        tl.store(square + at, q, mask=inside)
    tl.store(velocity + at, v, mask=inside)
    tl.store(weights + at, w - rate * direction, mask=inside)


@triton.jit
def power(base, exponent):
    """``base ** exponent`` for bases in [0, 1) and exponents above 0, in double precision."""
    positive = base > 0
    return tl.where(positive, tl.exp(exponent * tl.log(tl.where(positive, base, 1.0))), 0.0)
