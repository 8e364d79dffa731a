"""Philox: random numbers as a function of a key and of where they stand, of many keys at a time."""

from __future__ import annotations

import numpy as np

from models.kernels.cpu.compiled import compiled
from models.kernels.philox import BLOCKS, KEY_STEPS, MULTIPLIERS, N_ROUNDS

CHUNK = 4 * BLOCKS

_FIRST_MULTIPLIER, _SECOND_MULTIPLIER = (np.uint64(one) for one in MULTIPLIERS)
_FIRST_STEP, _SECOND_STEP = (np.uint64(one) for one in KEY_STEPS)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@compiled
def chunk(key, index, call, n, words):
    """The n-th 256 numbers of a call, see ``models.philox``, into ``words``, uint32."""
    for b in range(BLOCKS):
        first, second = np.uint64(n * BLOCKS + b), np.uint64(call)
        third, fourth = np.uint64(index) & _LOW, np.uint64(index) >> _HALF
        left, right = np.uint64(key) & _LOW, np.uint64(key) >> _HALF
        for _ in range(N_ROUNDS):
            one, other = _FIRST_MULTIPLIER * first, _SECOND_MULTIPLIER * third
            first, third = (other >> _HALF) ^ second ^ left, (one >> _HALF) ^ fourth ^ right
            second, fourth = other & _LOW, one & _LOW
            left, right = (left + _FIRST_STEP) & _LOW, (right + _SECOND_STEP) & _LOW
        words[b] = first
        words[BLOCKS + b] = second
        words[2 * BLOCKS + b] = third
        words[3 * BLOCKS + b] = fourth


@compiled
def integers(keys, index, call, low, span, n_columns, out):
    """Integers from ``low`` on, ``span`` of them equally likely; see ``models.philox.integers``.

    Args:
        keys: of the streams, ``[K]``.
        index: see ``models.philox``.
        call: see ``models.philox``.
        low: the least.
        span: how many, at most 2^32.
        n_columns: B, > 0.
        out: flat array ``[n, K, B]``, written.
    """
    n_keys = len(keys)
    n_rows = len(out) // (n_keys * n_columns)
    words, scaled = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.int64)
    for k in range(n_keys):
        n, at = 0, CHUNK
        for r in range(n_rows):
            start, to = 0, (r * n_keys + k) * n_columns
            while start < n_columns:
                if at == CHUNK:
                    chunk(keys[k], index, call, n, words)
                    for b in range(CHUNK):
                        # The upper half of a product of 32 bits each is below the span.
                        scaled[b] = low + np.int64((np.uint64(words[b]) * np.uint64(span)) >> _HALF)
                    n, at = n + 1, 0
                together = min(CHUNK - at, n_columns - start)
                for b in range(together):
                    out[to + start + b] = scaled[at + b]
                start, at = start + together, at + together


@compiled
def uniform(keys, index, call, out, first, last):
    """Numbers in [0, 1), for streams first to last; see ``models.philox.uniform``.

    Args:
        keys: of the streams, ``[K]``.
        index: see ``models.philox``.
        call: see ``models.philox``.
        out: ``[K, n]``, written.
        first: first stream.
        last: one past the last stream.
    """
    size, words = out.shape[1], np.empty(CHUNK, np.uint32)
    for k in range(first, last):
        for start in range(0, size, CHUNK):
            chunk(keys[k], index, call, start // CHUNK, words)
            for b in range(min(CHUNK, size - start)):
                # As many bits as a float holds.
                out[k, start + b] = np.float32(np.int32(words[b] >> np.uint32(8))) * np.float32(2**-24)
