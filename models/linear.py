"""The product of a stack's rows with its matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def linear(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W + b`` of every row x, ``[K, T, B, m]``, as one product for each member.

    Where ``@`` spreads matrices over steps it copies them for each, and multiplies step by step: half as fast.

    Args:
        rows: x, ``[K, T, B, n]``, or ``[T, B, n]`` where all members have the same.
        matrix: W, ``[K, n, m]``.
        bias: b, ``[K, m]``; None for 0.
    """
    flat = rows.flatten(-3, -2).expand(len(matrix), -1, -1)
    product = torch.bmm(flat, matrix) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, matrix)
    return product.view(len(matrix), *rows.shape[-3:-1], matrix.shape[-1])
