"""The interface of kernels for processors: it spreads them over threads."""

from __future__ import annotations

from torch import Tensor

from models.kernels.cpu import elman, fast_elman, gru, lstm
from models.kernels.cpu.threads import over_rows


def elman_forward(kind: int, drive: Tensor, matrix: Tensor, mask: Tensor | None, states: Tensor) -> None:
    """See ``Kernels``."""
    over_rows(elman.forward, *_grid(states), kind, drive, matrix, _or_empty(mask, states), states)


def elman_backward(
    kind: int, states: Tensor, matrix: Tensor, mask: Tensor | None, cotangent: Tensor, delta: Tensor
) -> None:
    """See ``Kernels``."""
    held = (states, matrix, _or_empty(mask, states))
    over_rows(elman.backward, *_grid(states), kind, *held, cotangent, delta)


def lstm_forward(
    drive: Tensor,
    matrix: Tensor,
    mask: Tensor | None,
    states: Tensor,
    gates: Tensor,
    cells: Tensor,
    squashed: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (drive, matrix, _or_empty(mask, states))
    over_rows(lstm.forward, *_grid(states), *held, states, gates, cells, squashed)


def lstm_backward(
    gates: Tensor,
    cells: Tensor,
    squashed: Tensor,
    matrix: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    delta: Tensor,
    carousel: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (gates, cells, squashed, matrix, _or_empty(mask, cells))
    over_rows(lstm.backward, *_grid(cells), *held, cotangent, delta, carousel)


def gru_forward(
    drive: Tensor, matrix: Tensor, bias: Tensor, mask: Tensor | None, states: Tensor, gates: Tensor, reset: Tensor
) -> None:
    """See ``Kernels``."""
    held = (drive, matrix, bias, _or_empty(mask, states))
    over_rows(gru.forward, *_grid(states), *held, states, gates, reset)


def gru_backward(
    states: Tensor,
    gates: Tensor,
    reset: Tensor,
    matrix: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    delta: Tensor,
    d_reset: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (states, gates, reset, matrix, _or_empty(mask, states))
    over_rows(gru.backward, *_grid(states), *held, cotangent, delta, d_reset)


def fast_elman_forward(
    kind: int,
    drive_mean: Tensor,
    drive_variance: Tensor,
    matrix: Tensor,
    p_keep: Tensor,
    means: Tensor,
    mus: Tensor,
    s2s: Tensor,
    spreads: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (drive_mean, drive_variance, matrix, p_keep.flatten())
    over_rows(fast_elman.forward, *_grid(means), kind, *held, means, mus, s2s, spreads)


def fast_elman_backward(
    kind: int,
    means: Tensor,
    mus: Tensor,
    s2s: Tensor,
    matrix: Tensor,
    p_keep: Tensor,
    cotangent: Tensor,
    delta: Tensor,
    epsilon: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (means, mus, s2s, matrix, p_keep.flatten())
    over_rows(fast_elman.backward, *_grid(delta), kind, *held, cotangent, delta, epsilon)


def _grid(states: Tensor) -> tuple[int, int]:
    """Members and rows of ``[K, T, B, H]``."""
    return states.shape[0], states.shape[2]


def _or_empty(mask: Tensor | None, like: Tensor) -> Tensor:
    """A mask, or the empty one that stands for none: the compiled code takes arrays only."""
    return like.new_empty(0, 0, 0, 0) if mask is None else mask
