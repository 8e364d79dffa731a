"""The interface of kernels for processors: it spreads them over threads, and pads matrices to whole vectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from models.kernels.cpu import elman, fast_elman, gru, lstm
from models.kernels.cpu.product import padded
from models.kernels.cpu.threads import over_rows


def elman_forward(kind: int, drive: Tensor, matrix: Tensor, mask: Tensor | None, states: Tensor) -> None:
    """See ``Kernels``."""
    over_rows(elman.forward, *_grid(states), kind, drive, _rows(matrix), _or_empty(mask, states), states)


def elman_backward(
    kind: int, states: Tensor, matrix: Tensor, mask: Tensor | None, cotangent: Tensor, delta: Tensor
) -> None:
    """See ``Kernels``."""
    held = (states, _rows(matrix.mT), _or_empty(mask, states))
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
    held = (drive, _rows(matrix), _or_empty(mask, states))
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
    held = (gates, cells, squashed, _rows(matrix.mT), _or_empty(mask, cells))
    over_rows(lstm.backward, *_grid(cells), *held, cotangent, delta, carousel)


def gru_forward(
    drive: Tensor, matrix: Tensor, bias: Tensor, mask: Tensor | None, states: Tensor, gates: Tensor, reset: Tensor
) -> None:
    """See ``Kernels``."""
    held = (drive, _rows(matrix), bias, _or_empty(mask, states))
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
    held = (states, gates, reset, _rows(matrix.mT), _or_empty(mask, states))
    over_rows(gru.backward, *_grid(states), *held, cotangent, delta, d_reset)


def fast_elman_forward(
    kind: int, drive_mean: Tensor, drive_variance: Tensor, matrix: Tensor, p_keep: Tensor, tape: Tensor
) -> None:
    """See ``Kernels``."""
    held = (_rows(p_keep * matrix), _rows(p_keep * matrix.square()), (1 - p_keep).flatten())
    over_rows(fast_elman.forward, *_grid(drive_mean), kind, drive_mean, drive_variance, *held, tape)


def fast_elman_backward(
    kind: int, tape: Tensor, matrix: Tensor, p_keep: Tensor, cotangent: Tensor, delta: Tensor, epsilon: Tensor
) -> None:
    """See ``Kernels``."""
    held = (_rows((p_keep * matrix).mT), _rows((p_keep * matrix.square()).mT), (1 - p_keep).flatten())
    over_rows(fast_elman.backward, *_grid(delta), kind, tape, *held, cotangent, delta, epsilon)


def _grid(states: Tensor) -> tuple[int, int]:
    """Members and rows of ``[K, T, B, H]``."""
    return states.shape[0], states.shape[2]


def _rows(matrix: Tensor) -> Tensor:
    """A matrix ``[K, N, M]`` whose rows are padded with zeros to whole vectors."""
    return pad(matrix.detach(), (0, padded(matrix.shape[-1], matrix.element_size()) - matrix.shape[-1])).contiguous()


def _or_empty(mask: Tensor | None, like: Tensor) -> Tensor:
    """A mask, or the empty one that stands for none: the compiled code takes arrays only."""
    return like.new_empty(0, 0, 0, 0) if mask is None else mask
