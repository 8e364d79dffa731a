"""The interface of kernels for NVIDIA GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from models.drive import Drive
from models.kernels.gpu import elman, fast_elman, gru, lstm, lstm_1997, min_gru, philox, rule
from models.kernels.gpu.launch import launch, launch_on, or_any, room, turned
from models.kernels.gpu.outer import collect, multiply
from models.untied import write_layer_gradients

apply_rule, uniform = rule.apply_rule, philox.uniform


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
    matrices = turned(matrices[:, -drive.grid[1] :])
    options = {"KIND": kind, "MASKED": mask is not None, "LEAKY": False, "UNTIED": matrices.shape[1] > 1}
    held = (matrices, or_any(mask, states), states)
    parting = elman.FORWARD if matrices.shape[1] == 1 else elman.UNTIED
    launch_on(drive, elman.forward, parting, states, *held, states, states, matrices.shape[1], **options)


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
    signals, n_matrices = room(delta, states, 1, window), matrices.shape[1]
    options = {"KIND": kind, "MASKED": mask is not None, "LEAKY": False}
    options |= {"UNTIED": n_matrices > 1, "TRUNCATED": window is not None}
    held = (states, matrices, or_any(mask, states), states, cotangent, or_any(window, states))
    parting = elman.BACKWARD if n_matrices == 1 else elman.UNTIED
    launch(elman.backward, parting, states, *held, signals, states, n_matrices, cotangent.shape[1], **options)
    if n_matrices > 1:
        write_layer_gradients(states, mask, signals, d_matrices)
    else:
        multiply(states, mask, signals, d_matrices[:, 0])
    collect(codes, (signals,), (d_drive,))


def leaky_forward(
    kind: int, drive: Drive, matrix: Tensor, retention: Tensor, mask: Tensor | None, states: Tensor, units: Tensor
) -> None:
    """See ``Kernels``."""
    options = {"KIND": kind, "MASKED": mask is not None, "LEAKY": True, "UNTIED": False}
    held = (turned(matrix), or_any(mask, states), retention)
    launch_on(drive, elman.forward, elman.FORWARD, states, *held, states, units, 1, **options)


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
    signals, d_kept = room(delta, states, 1, window), torch.empty_like(states[:, 0])
    held = (units, matrix, or_any(mask, states), retention, cotangent, or_any(window, states))
    launch(elman.backward, elman.BACKWARD, states, *held, signals, d_kept, 1, cotangent.shape[1], **options)
    multiply(states, mask, signals, d_matrix)
    collect(codes, (signals,), (d_drive,))


def lstm_forward(
    drive: Drive,
    matrix: Tensor,
    mask: Tensor | None,
    states: Tensor,
    gates: Tensor,
    cells: Tensor,
) -> None:
    """See ``Kernels``."""
    arguments = (turned(matrix), or_any(mask, states), states, gates, cells)
    launch_on(drive, lstm.forward, lstm.FORWARD, states, *arguments, MASKED=mask is not None)


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
    options = {"MASKED": mask is not None, "TRUNCATED": window is not None}
    signals = room(delta, states, 4, window)
    held = (gates, cells, matrix, or_any(mask, cells), cotangent, or_any(window, states))
    written = (signals, room(carousel, states, 1, window))
    launch(lstm.backward, lstm.BACKWARD, cells, *held, *written, cotangent.shape[1], **options)
    multiply(states, mask, signals, d_matrix)
    collect(codes, (signals,), (d_drive,))


def lstm_1997_forward(
    drive: Drive, matrix: Tensor, mask: Tensor | None, states: Tensor, gates: Tensor, cells: Tensor
) -> None:
    """See ``Kernels``."""
    arguments = (turned(matrix), or_any(mask, states), states, gates, cells)
    launch_on(drive, lstm_1997.forward, lstm_1997.FORWARD, states, *arguments, MASKED=mask is not None)


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
    options = {"MASKED": mask is not None, "TRUNCATED": window is not None, "SEVERED": truncated}
    signals = room(delta, states, 3, window)
    held = (gates, cells, matrix, or_any(mask, states), cotangent, or_any(window, states))
    written = (signals, room(carousel, states, 1, window))
    launch(lstm_1997.backward, lstm_1997.BACKWARD, states, *held, *written, cotangent.shape[1], **options)
    multiply(states, mask, signals, d_matrix)
    collect(codes, (signals,), (d_drive,))


def gru_forward(
    drive: Drive, matrix: Tensor, bias: Tensor, mask: Tensor | None, states: Tensor, gates: Tensor, reset: Tensor
) -> None:
    """See ``Kernels``."""
    arguments = (turned(matrix), bias, or_any(mask, states), states, gates, reset)
    launch_on(drive, gru.forward, gru.FORWARD, states, *arguments, MASKED=mask is not None)


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
    signals, d_reset = room(delta, states, 3, window), room(states[:0], states, 1, window)
    held = (states, gates, reset, matrix, or_any(mask, states), cotangent, or_any(window, states))
    written = (signals, d_reset, states.new_empty(states[:, 0].shape))
    launch(gru.backward, gru.BACKWARD, states, *held, *written, cotangent.shape[1], **options)
    n_gated = 2 * states.shape[-1]
    multiply(states, mask, signals[..., :n_gated], d_matrix[..., :n_gated])
    multiply(states, mask, d_reset, d_matrix[..., n_gated:])
    torch.sum(d_reset, (1, 2), out=d_bias)
    collect(codes, (signals,), (d_drive,))


def min_gru_forward(drive: Drive, states: Tensor, gates: Tensor) -> None:
    """See ``Kernels``."""
    launch_on(drive, min_gru.forward, min_gru.FORWARD, states, states, gates)


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
    signals = room(delta, states, 2, window)
    held = (states, gates, cotangent, or_any(window, states), signals)
    launch(min_gru.backward, min_gru.BACKWARD, states, *held, cotangent.shape[1], TRUNCATED=window is not None)
    collect(codes, (signals,), (d_drive,))


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
    arguments = (turned(matrix), p_keep, means, mus, s2s, spreads)
    launch_on(drive, fast_elman.forward, fast_elman.FORWARD, means, *arguments, KIND=kind)


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
    signals = (room(delta, means, 1, window), room(epsilon, means, 1, window))
    cotangents = (cotangent, torch.zeros_like(cotangent) if variance_cotangent is None else variance_cotangent)
    held = (means, mus, s2s, matrix, p_keep, *cotangents, or_any(window, means))
    options = {"KIND": kind, "TRUNCATED": window is not None}
    launch(fast_elman.backward, fast_elman.BACKWARD, means, *held, *signals, cotangent.shape[1], **options)
    by_square = torch.empty_like(d_matrix)
    multiply(means, None, signals[0], d_matrix)
    multiply(spreads, None, signals[1], by_square)
    d_matrix.addcmul_(by_square, matrix, value=2).mul_(p_keep)
    collect(codes, signals, (d_mean_drive, d_variance_drive))
