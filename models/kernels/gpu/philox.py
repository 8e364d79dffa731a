"""Philox for a GPU: see ``models.philox``."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from models.kernels import philox as constants

BLOCK = 256
"""Blocks of four numbers that one program computes."""

_BLOCKS, _N_ROUNDS = tl.constexpr(constants.BLOCKS), tl.constexpr(constants.N_ROUNDS)
_FIRST_MULTIPLIER, _SECOND_MULTIPLIER = (tl.constexpr(one) for one in constants.MULTIPLIERS)
_FIRST_STEP, _SECOND_STEP = (tl.constexpr(one) for one in constants.KEY_STEPS)


def uniform(keys: Tensor, index: int, call: int, out: Tensor) -> None:
    """See ``models.kernels.Kernels``."""
    n_keys, n = out.shape
    if out.numel() > 0:
        grid = (triton.cdiv(n, 4 * BLOCK), n_keys)
        fill[grid](keys, index & 0xFFFFFFFF, index >> 32, call, out, n, BLOCK=BLOCK)


@triton.jit(do_not_specialize=["low", "high", "call", "n"])
def fill(keys, low, high, call, out, n, BLOCK: tl.constexpr):
    """A part of the numbers of one stream, see ``models.philox.uniform``; the index comes in two halves."""
    # Places of a long stream's numbers take more than 32 bits.
    k, block = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + k).to(tl.uint64)
    left, right = key & 0xFFFFFFFF, key >> 32
    first = block.to(tl.uint64)
    second, third, fourth = first * 0 + call, first * 0 + low, first * 0 + high
    for _ in tl.static_range(_N_ROUNDS):
        one, other = first * _FIRST_MULTIPLIER, third * _SECOND_MULTIPLIER
        first, third = (other >> 32) ^ second ^ left, (one >> 32) ^ fourth ^ right
        second, fourth = other & 0xFFFFFFFF, one & 0xFFFFFFFF
        left, right = (left + _FIRST_STEP) & 0xFFFFFFFF, (right + _SECOND_STEP) & 0xFFFFFFFF
    at, own = block // _BLOCKS * (4 * _BLOCKS) + block % _BLOCKS, out + k * n
    put(own, at, first, n)
    put(own, at + _BLOCKS, second, n)
    put(own, at + 2 * _BLOCKS, third, n)
    put(own, at + 3 * _BLOCKS, fourth, n)


@triton.jit
def put(out, at, words, n):
    """Words as numbers in [0, 1), at places below n."""
    tl.store(out + at, (words >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08, mask=at < n)
