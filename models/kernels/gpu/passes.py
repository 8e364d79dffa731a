"""The interface of kernels for NVIDIA GPUs: it says how the work is parted into programs."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from models.drive import Drive
from models.elman import recurrent_gradient
from models.gru import recurrent_gradients
from models.kernels.gpu import elman, fast_elman, gru, lstm
from models.untied import write_layer_gradients

ROWS = 16
"""Rows of the batch that one program works on: the least that fill a tensor core."""

SMALL, WIDE = 64, 128
"""Most units whose recurrent weights stay on the chip as one tile, for several matrices and for a single one."""

N_WARPS = 8
"""Groups of 32 threads in a program: with half as many the tiles of gated cells do not fit into registers."""


def new_gates(states: Tensor, n_gates: int) -> Tensor:
    """See ``Kernels``; side by side in a row."""
    return states.new_empty(*states.shape[:-1], n_gates, states.shape[-1])


def elman_forward(kind: int, drive: Drive, matrix: Tensor, mask: Tensor | None, states: Tensor) -> None:
    """See ``Kernels``."""
    untied_forward(kind, drive, matrix.unsqueeze(1), mask, states)


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


def untied_forward(kind: int, drive: Drive, matrices: Tensor, mask: Tensor | None, states: Tensor) -> None:
    """See ``Kernels``."""
    options = {"KIND": kind, "MASKED": mask is not None, "LEAKY": False, "UNTIED": matrices.shape[1] > 1}
    held = (*drive.dense(), matrices, _or_any(mask, states), states)
    _launch(elman.forward, states, WIDE, *held, states, states, matrices.shape[1], **options)


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
    signals, n_matrices = _room(delta, states, 1, window), matrices.shape[1]
    options = {"KIND": kind, "MASKED": mask is not None, "LEAKY": False}
    options |= {"UNTIED": n_matrices > 1, "TRUNCATED": window is not None}
    held = (states, matrices, _or_any(mask, states), states, cotangent, _or_any(window, states))
    _launch(elman.backward, states, WIDE, *held, signals, states, n_matrices, cotangent.shape[1], **options)
    if n_matrices > 1:
        write_layer_gradients(states, mask, signals, d_matrices)
    else:
        d_matrices[:, 0] = recurrent_gradient(states, mask, signals)
    _collect(codes, (signals,), (d_drive,))


def leaky_forward(
    kind: int, drive: Drive, matrix: Tensor, retention: Tensor, mask: Tensor | None, states: Tensor, units: Tensor
) -> None:
    """See ``Kernels``."""
    options = {"KIND": kind, "MASKED": mask is not None, "LEAKY": True, "UNTIED": False}
    held = (*drive.dense(), matrix, _or_any(mask, states), retention)
    _launch(elman.forward, states, WIDE, *held, states, units, 1, **options)


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
    options = {"KIND": kind, "MASKED": mask is not None, "LEAKY": True}
    options |= {"UNTIED": False, "TRUNCATED": window is not None}
    signals, d_kept = _room(delta, states, 1, window), torch.empty_like(states[:, 0])
    held = (units, matrix, _or_any(mask, states), retention, cotangent, _or_any(window, states))
    _launch(elman.backward, states, WIDE, *held, signals, d_kept, 1, cotangent.shape[1], **options)
    d_matrix.copy_(recurrent_gradient(states, mask, signals))
    _collect(codes, (signals,), (d_drive,))


def lstm_forward(
    drive: Drive,
    matrix: Tensor,
    mask: Tensor | None,
    states: Tensor,
    gates: Tensor,
    cells: Tensor,
    squashed: Tensor,
) -> None:
    """See ``Kernels``."""
    arguments = (*drive.dense(), matrix, _or_any(mask, states), states, gates, cells, squashed)
    _launch(lstm.forward, states, SMALL, *arguments, MASKED=mask is not None)


def lstm_backward(
    states: Tensor,
    gates: Tensor,
    cells: Tensor,
    squashed: Tensor,
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
    options = {"MASKED": mask is not None, "TRUNCATED": window is not None}
    signals = _room(delta, states, 4, window)
    held = (gates, cells, squashed, matrix, _or_any(mask, cells), cotangent, _or_any(window, states))
    written = (signals, _room(carousel, states, 1, window))
    _launch(lstm.backward, cells, SMALL, *held, *written, cotangent.shape[1], **options)
    d_matrix.copy_(recurrent_gradient(states, mask, signals))
    _collect(codes, (signals,), (d_drive,))


def gru_forward(
    drive: Drive, matrix: Tensor, bias: Tensor, mask: Tensor | None, states: Tensor, gates: Tensor, reset: Tensor
) -> None:
    """See ``Kernels``."""
    arguments = (*drive.dense(), matrix, bias, _or_any(mask, states), states, gates, reset)
    _launch(gru.forward, states, SMALL, *arguments, MASKED=mask is not None)


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
    options = {"MASKED": mask is not None, "TRUNCATED": window is not None}
    signals, d_reset = _room(delta, states, 3, window), _room(states[:0], states, 1, window)
    held = (states, gates, reset, matrix, _or_any(mask, states), cotangent, _or_any(window, states))
    written = (signals, d_reset, states.new_empty(states[:, 0].shape))
    _launch(gru.backward, states, SMALL, *held, *written, cotangent.shape[1], **options)
    gradients = recurrent_gradients(states, mask, signals, d_reset)
    d_matrix.copy_(gradients["recurrent"])
    d_bias.copy_(gradients["recurrent_bias"])
    _collect(codes, (signals,), (d_drive,))


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
    arguments = (*drive.dense(), matrix, p_keep, means, mus, s2s, spreads)
    _launch(fast_elman.forward, means, SMALL, *arguments, KIND=kind)


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
    signals = (_room(delta, means, 1, window), _room(epsilon, means, 1, window))
    cotangents = (cotangent, torch.zeros_like(cotangent) if variance_cotangent is None else variance_cotangent)
    held = (means, mus, s2s, matrix, p_keep, *cotangents, _or_any(window, means))
    options = {"KIND": kind, "TRUNCATED": window is not None}
    _launch(fast_elman.backward, means, SMALL, *held, *signals, cotangent.shape[1], **options)
    through_mean = recurrent_gradient(means, None, signals[0])
    through_variance = recurrent_gradient(spreads, None, signals[1])
    d_matrix.copy_(p_keep * torch.addcmul(through_mean, through_variance, matrix, value=2))
    _collect(codes, signals, (d_mean_drive, d_variance_drive))


def _room(signals: Tensor, states: Tensor, n_gates: int, window: Tensor | None) -> Tensor:
    """The error signals that the caller wants, or room for those it does not want; zero if not all are written."""
    room = signals if signals.numel() > 0 else states.new_empty(*states.shape[:-1], n_gates * states.shape[-1])
    return room if window is None else room.zero_()


def _collect(codes: Tensor | None, signals: tuple[Tensor, ...], tables: tuple[Tensor, ...]) -> None:
    """Add the signals up by the row of the drive's table."""
    if codes is not None:
        for table, summed in zip(tables, Drive(parts=tables, codes=codes).collect(signals), strict=True):
            table.copy_(summed)


def _launch(kernel: Any, states: Tensor, widest: int, *arguments: Tensor | int, **options: int) -> None:
    """Run a kernel with one program for each member and tile of rows of ``[K, T, B, H]``."""
    n_members, n_steps, n_batch, n_hidden = states.shape
    sizes = tiles(n_hidden, widest)
    kernel[(n_members, triton.cdiv(n_batch, ROWS))](*arguments, n_steps, n_batch, **sizes, **options, num_warps=N_WARPS)


def tiles(n_hidden: int, widest: int) -> dict[str, int]:
    """Sizes that a kernel is compiled for: units, and how they are parted into tiles."""
    width = min(widest, max(16, triton.next_power_of_2(n_hidden)))
    return {"HIDDEN": n_hidden, "ROWS": ROWS, "WIDTH": width, "BLOCKS": triton.cdiv(n_hidden, width)}


def _or_any(given: Tensor | None, other: Tensor) -> Tensor:
    """A mask or windows, or what a kernel that is compiled without them will not read."""
    return other if given is None else given
