"""The interface of kernels for NVIDIA GPUs: it says how the work is parted into programs."""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from models.kernels.gpu import elman, fast_elman, gru, lstm

ROWS = 16
"""Rows of the batch that one program works on: the least that fill a tensor core."""

SMALL, WIDE = 64, 128
"""Most units whose recurrent weights stay on the chip as one tile, for several matrices and for a single one."""

N_WARPS = 8
"""Groups of 32 threads in a program: with half as many the tiles of gated cells do not fit into registers."""


def elman_forward(kind: int, drive: Tensor, matrix: Tensor, mask: Tensor | None, states: Tensor) -> None:
    """See ``Kernels``."""
    options = {"KIND": kind, "MASKED": mask is not None}
    _launch(elman.forward, states, WIDE, drive, matrix, _or_any(mask, states), states, **options)


def elman_backward(
    kind: int, states: Tensor, matrix: Tensor, mask: Tensor | None, cotangent: Tensor, delta: Tensor
) -> None:
    """See ``Kernels``."""
    options = {"KIND": kind, "MASKED": mask is not None}
    arguments = (states, matrix, _or_any(mask, states), cotangent, delta, cotangent.shape[1])
    _launch(elman.backward, states, WIDE, *arguments, **options)


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
    arguments = (drive, matrix, _or_any(mask, states), states, gates, cells, squashed)
    _launch(lstm.forward, states, SMALL, *arguments, MASKED=mask is not None)


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
    held = (gates, cells, squashed, matrix, _or_any(mask, cells), cotangent)
    _launch(lstm.backward, cells, SMALL, *held, delta, carousel, cotangent.shape[1], MASKED=mask is not None)


def gru_forward(
    drive: Tensor, matrix: Tensor, bias: Tensor, mask: Tensor | None, states: Tensor, gates: Tensor, reset: Tensor
) -> None:
    """See ``Kernels``."""
    arguments = (drive, matrix, bias, _or_any(mask, states), states, gates, reset)
    _launch(gru.forward, states, SMALL, *arguments, MASKED=mask is not None)


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
    held = (states, gates, reset, matrix, _or_any(mask, states), cotangent)
    written = (delta, d_reset, states.new_empty(states[:, 0].shape))
    _launch(gru.backward, states, SMALL, *held, *written, cotangent.shape[1], MASKED=mask is not None)


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
    arguments = (drive_mean, drive_variance, matrix, p_keep, means, mus, s2s, spreads)
    _launch(fast_elman.forward, means, SMALL, *arguments, KIND=kind)


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
    arguments = (means, mus, s2s, matrix, p_keep, cotangent, delta, epsilon, cotangent.shape[1])
    _launch(fast_elman.backward, delta, SMALL, *arguments, KIND=kind)


def _launch(kernel: Any, states: Tensor, widest: int, *arguments: Tensor | int, **options: int) -> None:
    """Run a kernel with one program for each member and tile of rows of ``[K, T, B, H]``."""
    n_members, n_steps, n_batch, n_hidden = states.shape
    sizes = tiles(n_hidden, widest)
    kernel[(n_members, triton.cdiv(n_batch, ROWS))](*arguments, n_steps, n_batch, **sizes, **options, num_warps=N_WARPS)


def tiles(n_hidden: int, widest: int) -> dict[str, int]:
    """Sizes that a kernel is compiled for: units, and how they are parted into tiles."""
    width = min(widest, max(16, triton.next_power_of_2(n_hidden)))
    return {"HIDDEN": n_hidden, "ROWS": ROWS, "WIDTH": width, "BLOCKS": triton.cdiv(n_hidden, width)}


def _or_any(mask: Tensor | None, other: Tensor) -> Tensor:
    """A mask, or what a kernel that is compiled without masks will not read."""
    return other if mask is None else mask
