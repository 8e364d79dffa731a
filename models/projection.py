"""The input projection of a stack, and its gradients; symbols select rows instead of being multiplied."""

from __future__ import annotations

from torch import Tensor

from models.drive import Drive
from models.linear import linear, linear_back


def project(inputs: Tensor, matrix: Tensor, bias: Tensor | None) -> Drive:
    """Input projection of a stack, as a drive of one part.

    Values ``[(K,) T, B, n_in]`` are multiplied by ``matrix`` ``[K, n_in, G*H]``; codes ``[(K,) T, B]`` select its rows,
    which is the product with their one-hot vectors. ``bias`` ``[K, G*H]`` is added everywhere.
    """
    if is_code(inputs):
        return Drive(parts=(matrix if bias is None else matrix + bias[:, None],), codes=inputs)
    return Drive(parts=(linear(inputs.to(matrix.dtype), matrix, bias),))


def collect(inputs: Tensor, mask: Tensor | None, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by matrix and bias of ``project``.

    Args:
        inputs: as in ``project``.
        mask: what values were multiplied by, ``[K, T, B, n_in]``, or None; None for codes.
        flow: gradient by the drive's part, of its shape.

    Returns:
        ``[K, n_in, G*H]`` and ``[K, G*H]``.
    """
    if is_code(inputs):
        return flow, flow.sum(1)
    values = (inputs if mask is None else inputs * mask).to(flow.dtype)
    return linear_back(values, flow)


def is_code(inputs: Tensor) -> bool:
    """Whether inputs are symbol codes, not values."""
    return not inputs.is_floating_point()
