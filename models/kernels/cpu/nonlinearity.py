"""Nonlinearities without branches or calls, so that LLVM makes vector instructions of the loops that apply them."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from models.kernels.fits import UPPER_TAIL


@intrinsic
def _from_bits(typing_context, bits):
    """The float32 that these 32 bits are."""

    def codegen(context, builder, _, values):
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def _to_bits(typing_context, value):
    """The 32 bits of a float32."""

    def codegen(context, builder, _, values):
        return builder.bitcast(values[0], ir.IntType(32))

    return types.int32(types.float32), codegen


def exp(x: float) -> float:
    """``e^x``; in float32 within 3e-7 of the value, relatively, 0 below -87.3 and infinite above 88.3.

    ``2^n e^r`` with n = round(x / ln 2) and |r| <= ln 2 / 2. The coefficients of P in ``e^r = 1 + r + r^2 P(r)`` are a
    fit of ours that makes the largest relative error small, 1.05e-7 before rounding.
    """
    raise NotImplementedError


def tanh(x: float) -> float:
    """Hyperbolic tangent; in float32 within 5e-7 of the value, relatively, and never beyond 1.

    ``x P(x^2) / Q(x^2)`` on [0, 9.02], from where on the value rounds to 1. The coefficients are a fit of ours that
    makes the largest relative error small, 2.1e-8 before rounding.
    """
    raise NotImplementedError


def logistic(x: float) -> float:
    """``1 / (1 + e^-x)``; in float32 within 4e-7 of the value, relatively, and 0 below -87."""
    raise NotImplementedError


def rectifier(x: float) -> float:
    """``max(0, x)``, NaN for NaN."""
    raise NotImplementedError


def upper_tail(r: float) -> float:
    """``1 - Phi(r)`` of the normal distribution for r >= 0; in float32 within 1e-5 of the value down to 1e-37.

    See ``models.kernels.fits``.
    """
    raise NotImplementedError


f32 = np.float32


@overload(exp)
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def implementation(x):
        # Comparisons with NaN are false, so that NaN passes through; at -87.3 the value leaves the normal range.
        end = f32(np.inf) if x > f32(88.3) else f32(1)
        end = f32(0) if x < f32(-87.3) else end
        x = f32(88.3) if x > f32(88.3) else x
        return end * _exp_inside(f32(-87.3) if x < f32(-87.3) else x)

    return implementation


@njit(inline="always")
def _exp_inside(x):
    """``e^x`` in float32 for -87.3 <= x <= 88.3, or NaN for NaN."""
    # Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    shifted = x * f32(1.4426950408889634) + f32(12582912.0)
    n = shifted - f32(12582912.0)
    # ln 2 in two parts, the first short enough for an exact product.
    r = (x - n * f32(0.693359375)) - n * f32(-2.12194440e-4)
    y = f32(0.008312502)
    y = y * r + f32(0.04189033)
    y = y * r + f32(0.16667116)
    y = y * r + f32(0.4999923)
    y = y * (r * r) + r + f32(1)
    return y * _from_bits((_to_bits(shifted) << np.int32(23)) + np.int32(127 << 23))


@overload(tanh)
def _tanh(x):
    if x != types.float32:
        return lambda x: math.tanh(x)

    def implementation(x):
        inside = f32(9.02) if x > f32(9.02) else x
        inside = f32(-9.02) if x < f32(-9.02) else inside
        u = inside * inside
        p = f32(1.331904511e-08)
        p = p * u + f32(2.058346132e-05)
        p = p * u + f32(0.003494033335)
        p = p * u + f32(0.1337971691)
        p = p * u + f32(1.000000039)
        q = f32(7.762008271e-07)
        q = q * u + f32(0.0003283090843)
        q = q * u + f32(0.02587106854)
        q = q * u + f32(0.4671303215)
        q = q * u + f32(1)
        y = inside * p / q
        # The fit ends a little above 1, and so exactly at 1 here: a saturated unit's slope is 0, no rounding error.
        y = f32(1) if y > f32(1) else y
        return f32(-1) if y < f32(-1) else y

    return implementation


@overload(logistic)
def _logistic(x):
    if x != types.float32:
        return lambda x: 1 / (1 + math.exp(-x))

    def implementation(x):
        inside = f32(87) if x > f32(87) else x
        inside = f32(-87) if inside < f32(-87) else inside
        y = f32(1) / (f32(1) + _exp_inside(-inside))
        # Exactly 0: a gate that is closed for good must not let through what times 1e-38 is still something.
        return f32(0) if x < f32(-87) else y

    return implementation


@overload(rectifier)
def _rectifier(x):
    zero = f32(0) if x == types.float32 else 0.0
    return lambda x: zero if x <= zero else x


@overload(upper_tail)
def _upper_tail(r):
    if r != types.float32:
        return lambda r: math.erfc(r * math.sqrt(0.5)) / 2

    def implementation(r):
        t = f32(1) / (f32(1) + r * f32(math.sqrt(0.125)))
        y = f32(UPPER_TAIL[0])
        y = y * t + f32(UPPER_TAIL[1])
        y = y * t + f32(UPPER_TAIL[2])
        y = y * t + f32(UPPER_TAIL[3])
        y = y * t + f32(UPPER_TAIL[4])
        y = y * t + f32(UPPER_TAIL[5])
        y = y * t + f32(UPPER_TAIL[6])
        y = y * t + f32(UPPER_TAIL[7])
        y = y * t + f32(UPPER_TAIL[8])
        return f32(0.5) * t * y * exp(f32(-0.5) * r * r)

    return implementation
