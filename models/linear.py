"""The product of a stack's rows with its matrices, and its way back."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from models.kernels.cpu import linear as cpu
from models.kernels.cpu.threads import over_members


def linear(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W + b`` of every row x, ``[K, T, B, m]``.

    On a processor, where autograd does not watch, a member's is the same to the last bit whoever else is in the stack.

    Args:
        rows: x, ``[K, T, B, n]``, or ``[T, B, n]`` where all members have the same.
        matrix: W, ``[K, n, m]``.
        bias: b, ``[K, m]``; None for 0.
    """
    n_members, n_columns = len(matrix), matrix.shape[-1]
    if not _compiled(rows, matrix):
        flat = rows.flatten(-3, -2).expand(n_members, -1, -1)
        product = torch.bmm(flat, matrix) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, matrix)
        return product.view(n_members, *rows.shape[-3:-1], n_columns)
    out = rows.new_empty(n_members, *rows.shape[-3:-1], n_columns)
    added = _no_bias(rows.dtype) if bias is None else bias.contiguous()
    over_members(cpu.products, n_members, *_rows(rows), _items(matrix), *matrix.stride(), added, rows.shape[-1], out)
    return out


def linear_back(rows: Tensor, d_product: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of what depends on ``linear`` by its matrix, ``sum x^T d`` over rows, and by its bias, ``sum d``.

    ``[K, n, m]`` and ``[K, m]``, and as independent of who else is in the stack.

    Args:
        rows: x, as in ``linear``.
        d_product: d, the gradient by the product, ``[K, T, B, m]``.
    """
    if not _compiled(rows, d_product):
        flat = rows.flatten(-3, -2).expand(len(d_product), -1, -1)
        return torch.bmm(flat.mT, d_product.flatten(1, 2)), d_product.sum((1, 2))
    n_members, *places, n_columns = d_product.shape
    by_matrix, by_bias = rows.new_empty(n_members, rows.shape[-1], n_columns), rows.new_empty(n_members, n_columns)
    n_rows = places[0] * places[1]
    over_members(cpu.gradients, n_members, *_rows(rows), *_rows(d_product), n_rows, by_matrix, by_bias)
    return by_matrix, by_bias


def _compiled(one: Tensor, other: Tensor) -> bool:
    return one.device.type == "cpu" and not torch.is_grad_enabled() and one.numel() > 0 and other.numel() > 0


def _rows(rows: Tensor) -> tuple[Tensor, int, int]:
    """The items of ``[(K,) T, B, n]`` as they lie in memory, and how far members and rows are apart."""
    n_steps, n_batch, n = rows.shape[-3:]
    if rows.is_contiguous():
        # The strides of an axis of length 1 may be anything.
        return rows.view(-1), n_steps * n_batch * n if rows.ndim == 4 else 0, n
    *of_member, of_step, of_row, of_item = rows.stride()
    if of_item != 1 or of_step != n_batch * of_row:
        return _rows(rows.contiguous())
    return _items(rows), of_member[0] if of_member else 0, of_row


def _items(tensor: Tensor) -> Tensor:
    """All that lies in memory from a tensor's first item to its last."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((last + 1,), (1,))


@cache
def _no_bias(dtype: torch.dtype) -> Tensor:
    return torch.empty(0, 0, dtype=dtype)
