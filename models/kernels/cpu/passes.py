"""The interface of kernels for processors: it spreads them over threads."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from models.drive import Drive
from models.kernels.cpu import elman, fast_elman, gru, lstm, min_gru, philox, rule
from models.kernels.cpu.threads import Array, over_members, over_rows


def new_gates(states: Tensor, n_gates: int) -> Tensor:
    """See ``Kernels``; gate by gate, as ``models.kernels.cpu.lstm`` says."""
    n_members, n_steps, n_batch, n_hidden = states.shape
    return states.new_empty(n_members, n_steps, n_gates, n_batch, n_hidden).transpose(2, 3)


def elman_forward(kind: int, drive: Drive, matrix: Tensor, mask: Tensor | None, states: Tensor) -> None:
    """See ``Kernels``."""
    untied_forward(kind, drive, matrix.unsqueeze(1), mask, states)


def untied_forward(kind: int, drive: Drive, matrices: Tensor, mask: Tensor | None, states: Tensor) -> None:
    """See ``Kernels``."""
    held = (*_table(drive), matrices, _or_empty(mask, states), _nothing(2, states.dtype))
    over_rows(elman.forward, *_grid(states), kind, *held, states, _nothing(4, states.dtype))


def elman_backward(
    kind: int,
    states: Tensor,
    matrix: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    window: Tensor | None,
    codes: Tensor | None,
    delta: Tensor,
    d_drive: Tensor,
    d_matrix: Tensor,
) -> None:
    """See ``Kernels``."""
    matrices, d_matrices = matrix.unsqueeze(1), d_matrix.unsqueeze(1)
    untied_backward(kind, states, matrices, mask, cotangent, window, codes, delta, d_drive, d_matrices)


def untied_backward(
    kind: int,
    states: Tensor,
    matrices: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    window: Tensor | None,
    codes: Tensor | None,
    delta: Tensor,
    d_drive: Tensor,
    d_matrices: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (states, states, matrices, _or_empty(mask, states), _nothing(2, states.dtype))
    errors = _errors(cotangent, window, codes)
    over_members(elman.backward, len(states), kind, *held, *errors, delta, d_drive, d_matrices)


def leaky_forward(
    kind: int, drive: Drive, matrix: Tensor, retention: Tensor, mask: Tensor | None, states: Tensor, units: Tensor
) -> None:
    """See ``Kernels``."""
    held = (*_table(drive), matrix.unsqueeze(1), _or_empty(mask, states), retention)
    over_rows(elman.forward, *_grid(states), kind, *held, states, units)


def leaky_backward(
    kind: int,
    states: Tensor,
    units: Tensor,
    matrix: Tensor,
    retention: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    window: Tensor | None,
    codes: Tensor | None,
    delta: Tensor,
    d_drive: Tensor,
    d_matrix: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (states, units, matrix.unsqueeze(1), _or_empty(mask, states), retention)
    errors = _errors(cotangent, window, codes)
    over_members(elman.backward, len(states), kind, *held, *errors, delta, d_drive, d_matrix.unsqueeze(1))


def lstm_forward(
    drive: Drive,
    matrix: Tensor,
    mask: Tensor | None,
    states: Tensor,
    gates: Tensor,
    cells: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (*_table(drive), matrix, _or_empty(mask, states))
    over_rows(lstm.forward, *_grid(states), *held, states, gates.transpose(2, 3), cells)


def lstm_backward(
    states: Tensor,
    gates: Tensor,
    cells: Tensor,
    matrix: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    window: Tensor | None,
    codes: Tensor | None,
    delta: Tensor,
    carousel: Tensor,
    d_drive: Tensor,
    d_matrix: Tensor,
) -> None:
    """See ``Kernels``."""
    tape = (states, gates.transpose(2, 3), cells)
    held = (*tape, matrix, _or_empty(mask, cells), *_errors(cotangent, window, codes))
    over_members(lstm.backward, len(cells), False, *held, delta, carousel, d_drive, d_matrix)


lstm_1997_forward = lstm_forward
"""See ``Kernels``; the number of gates tells the kernel which of the two it is."""


def lstm_1997_backward(
    truncated: bool,
    states: Tensor,
    gates: Tensor,
    cells: Tensor,
    matrix: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    window: Tensor | None,
    codes: Tensor | None,
    delta: Tensor,
    carousel: Tensor,
    d_drive: Tensor,
    d_matrix: Tensor,
) -> None:
    """See ``Kernels``."""
    tape = (states, gates.transpose(2, 3), cells)
    held = (*tape, matrix, _or_empty(mask, states), *_errors(cotangent, window, codes))
    over_members(lstm.backward, len(states), truncated, *held, delta, carousel, d_drive, d_matrix)


def gru_forward(
    drive: Drive, matrix: Tensor, bias: Tensor, mask: Tensor | None, states: Tensor, gates: Tensor, reset: Tensor
) -> None:
    """See ``Kernels``."""
    held = (*_table(drive), matrix, bias, _or_empty(mask, states))
    over_rows(gru.forward, *_grid(states), *held, states, gates.transpose(2, 3), reset)


def gru_backward(
    states: Tensor,
    gates: Tensor,
    reset: Tensor,
    matrix: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    window: Tensor | None,
    codes: Tensor | None,
    delta: Tensor,
    d_drive: Tensor,
    d_matrix: Tensor,
    d_bias: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (states, gates.transpose(2, 3), reset, matrix, _or_empty(mask, states), *_errors(cotangent, window, codes))
    over_members(gru.backward, len(states), *held, delta, d_drive, d_matrix, d_bias)


def min_gru_forward(drive: Drive, states: Tensor, gates: Tensor) -> None:
    """See ``Kernels``."""
    over_rows(min_gru.forward, *_grid(states), *_table(drive), states, gates.transpose(2, 3))


def min_gru_backward(
    states: Tensor,
    gates: Tensor,
    cotangent: Tensor,
    window: Tensor | None,
    codes: Tensor | None,
    delta: Tensor,
    d_drive: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (states, gates.transpose(2, 3), *_errors(cotangent, window, codes))
    over_members(min_gru.backward, len(states), *held, delta, d_drive)


def fast_elman_forward(
    kind: int,
    drive: Drive,
    matrix: Tensor,
    p_keep: Tensor,
    means: Tensor,
    mus: Tensor,
    s2s: Tensor,
    spreads: Tensor,
) -> None:
    """See ``Kernels``."""
    held = (*_table(drive), matrix, p_keep.flatten())
    over_rows(fast_elman.forward, *_grid(means), kind, *held, means, mus, s2s, spreads)


def fast_elman_backward(
    kind: int,
    means: Tensor,
    mus: Tensor,
    s2s: Tensor,
    spreads: Tensor,
    matrix: Tensor,
    p_keep: Tensor,
    cotangent: Tensor,
    variance_cotangent: Tensor | None,
    window: Tensor | None,
    codes: Tensor | None,
    delta: Tensor,
    epsilon: Tensor,
    d_mean_drive: Tensor,
    d_variance_drive: Tensor,
    d_matrix: Tensor,
) -> None:
    """See ``Kernels``."""
    by_mean, *others = _errors(cotangent, window, codes)
    errors = (by_mean, _or_empty(variance_cotangent, means), *others)
    held = (means, mus, s2s, spreads, matrix, p_keep.flatten(), *errors)
    over_members(fast_elman.backward, len(means), kind, *held, delta, epsilon, d_mean_drive, d_variance_drive, d_matrix)


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
    """See ``Kernels``."""
    held = (weights, gradient, velocity, square, coefficients, roles, norm, int(n_updates), epsilon)
    over_members(rule.update, len(weights), *held)


def uniform(keys: Tensor, index: int, call: int, out: Tensor) -> None:
    """See ``Kernels``."""
    over_members(philox.uniform, len(keys), keys, index, call, out)


def _errors(cotangent: Tensor, window: Tensor | None, codes: Tensor | None) -> tuple[Array, Array, Array]:
    """Where errors arise, the windows in which they flow back, without end if there are none, and the codes."""
    return cotangent, _endless(len(cotangent)) if window is None else window, _codes(codes)


@cache
def _endless(n_members: int) -> Array:
    return np.full(n_members, np.iinfo(np.int64).max)


def _grid(states: Tensor) -> tuple[int, int]:
    """Members and rows of ``[K, T, B, H]``."""
    return states.shape[0], states.shape[2]


def _table(drive: Drive) -> tuple[Array, ...]:
    """The parts, each ``[K, N, G*H]``, and the codes."""
    parts = drive.parts if drive.codes is not None else tuple(part.flatten(1, 2) for part in drive.parts)
    return *parts, _codes(drive.codes)


def _codes(codes: Tensor | None) -> Array:
    """Codes ``[1 or K, T, B]``, or the empty ones that stand for none."""
    if codes is None:
        return _nothing(3, torch.int64)
    return (codes if codes.ndim == 3 else codes[None]).contiguous()


def _or_empty(part: Tensor | None, like: Tensor) -> Array:
    """A part ``[K, T, B, H]``, or the empty one that stands for none."""
    return _nothing(4, like.dtype) if part is None else part


@cache
def _nothing(n_axes: int, dtype: torch.dtype) -> Array:
    """What stands for nothing: the compiled code takes arrays only."""
    array: Array = torch.empty((0,) * n_axes, dtype=dtype).numpy()
    return array
