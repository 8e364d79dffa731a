"""Nonlinearities of tiles, in arithmetic that also runs in Triton's interpreter."""

from __future__ import annotations

import triton
import triton.language as tl

from models.kernels.fits import UPPER_TAIL
from models.kernels.interface import LOGISTIC, TANH

_TANH, _LOGISTIC = tl.constexpr(TANH), tl.constexpr(LOGISTIC)
_UPPER_TAIL = tl.constexpr(UPPER_TAIL)
_N_TAIL = tl.constexpr(len(UPPER_TAIL))


@triton.jit
def tanh(x):
    """Hyperbolic tangent, ``(1 - e) / (1 + e)`` with ``e = exp(-2 |x|)``; its series where that loses digits."""
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    y = tl.where(x < 0.0, -y, y)
    if x.dtype == tl.float32:
        u = x * x
        series = x * (1.0 + u * (-1 / 3 + u * (2 / 15 + u * (-17 / 315 + u * (62 / 2835)))))
        y = tl.where(u < 0.0625, series, y)
    return y


@triton.jit
def logistic(x):
    """``1 / (1 + exp(-x))``."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def function(x, KIND: tl.constexpr):
    """The nonlinearity of this kind."""
    if KIND == _TANH:
        return tanh(x)
    elif KIND == _LOGISTIC:
        return logistic(x)
    else:
        return tl.where(x <= 0.0, 0.0, x)


@triton.jit
def slope(y, KIND: tl.constexpr):
    """Its derivative, from the value."""
    if KIND == _TANH:
        return 1.0 - y * y
    elif KIND == _LOGISTIC:
        return y * (1.0 - y)
    else:
        return tl.where(y > 0.0, 1.0, 0.0).to(y.dtype)


@triton.jit
def upper_tail(r):
    """``1 - Phi(r)`` of the normal distribution for r >= 0, see ``models.kernels.fits``."""
    if r.dtype == tl.float32:
        t = 1.0 / (1.0 + r * 0.3535533905932738)
        y = t * 0.0 + _UPPER_TAIL[0]
        for power in tl.static_range(1, _N_TAIL):
            y = y * t + _UPPER_TAIL[power]
        return 0.5 * t * y * tl.exp(-0.5 * r * r)
    else:
        return 0.5 - 0.5 * tl.erf(r * 0.7071067811865476)
