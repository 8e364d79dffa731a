"""Gradients of an input matrix whose rows are selected by symbol codes, compiled."""

from __future__ import annotations

from models.kernels.cpu.compiled import compiled


@compiled
def collect(codes, mask, flow, by_matrix, by_bias, first, last):
    """Sum the gradients of all net inputs that a symbol fed, for each symbol; and of all, for the bias.

    Args:
        codes: symbols in [0, N), ``[K, S]``, or ``[1, S]`` where all members see the same.
        mask: of the inputs, ``[K, S]``, or empty.
        flow: gradients by net input, ``[K, S, W]``.
        by_matrix: ``[K, N, W]``, written.
        by_bias: ``[K, W]``, written.
        first: first member.
        last: one past the last member.
    """
    n_places, width = flow.shape[1:]
    n_symbols = by_matrix.shape[1]
    flows, tables = flow.reshape(-1), by_matrix.reshape(-1)
    for k in range(first, last):
        own, total = codes[k if codes.shape[0] > 1 else 0], by_bias[k]
        start = k * n_symbols * width
        tables[start : start + n_symbols * width] = 0
        total[:] = 0
        for x in range(n_places):
            at, symbol = (k * n_places + x) * width, start + own[x] * width
            row, target = flows[at : at + width], tables[symbol : symbol + width]
            if mask.size > 0:
                factor = mask[k, x]
                for j in range(width):
                    target[j] += factor * row[j]
                for j in range(width):
                    total[j] += row[j]
            else:
                for j in range(width):
                    target[j] += row[j]
        if mask.size == 0:
            # Every net input was fed by exactly one symbol.
            for symbol in range(n_symbols):
                row = tables[start + symbol * width : start + (symbol + 1) * width]
                for j in range(width):
                    total[j] += row[j]
