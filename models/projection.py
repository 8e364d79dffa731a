"""The input projection of a stack, and its gradients; symbols select rows instead of being multiplied."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from models.kernels.cpu import symbols
from models.kernels.cpu.threads import over_members


def project(inputs: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """Input projection of a stack, ``[K, T, B, G*H]``.

    Values ``[(K,) T, B, n_in]`` are multiplied by ``matrix`` ``[K, n_in, G*H]``; codes ``[(K,) T, B]`` select its rows,
    which is the product with their one-hot vectors.
    """
    if is_code(inputs):
        table = matrix if bias is None else matrix + bias[:, None]
        selected: Tensor = _Gather.apply(table, inputs)  # type: ignore[no-untyped-call]
        return selected
    product = inputs.to(matrix.dtype) @ matrix.unsqueeze(1)
    return product if bias is None else product + bias[:, None, None]


def collect(inputs: Tensor, mask: Tensor | None, flow: Tensor, n_in: int) -> tuple[Tensor, Tensor]:
    """Gradients by matrix and bias of ``project``.

    For codes on a GPU they are one product, in which the bias is one more symbol, always there.

    Args:
        inputs: as in ``project``.
        mask: of the inputs, ``[K, T, B, 1]`` for codes, ``[K, T, B, n_in]`` for values; or None.
        flow: gradient by the projection, ``[K, T, B, G*H]``.
        n_in: number of symbols or values.

    Returns:
        ``[K, n_in, G*H]`` and ``[K, G*H]``.
    """
    delta = flow.flatten(1, 2)
    if is_code(inputs) and flow.device.type == "cpu":
        by_matrix = delta.new_empty(delta.shape[0], n_in, delta.shape[2])
        by_bias = delta.new_empty(delta.shape[0], delta.shape[2])
        codes = inputs.flatten(-2).reshape(-1, delta.shape[1]).contiguous()
        factors = delta.new_empty(0, 0) if mask is None else mask.flatten(1).contiguous()
        over_members(symbols.collect, len(delta), codes, factors, delta.contiguous(), by_matrix, by_bias)
        return by_matrix, by_bias
    if is_code(inputs):
        rows = one_hot(inputs.flatten(-2), n_in).to(flow.dtype).mT
        if mask is not None:
            rows = rows * mask.flatten(1).unsqueeze(1)
        rows = torch.cat((rows, torch.ones_like(rows[..., :1, :])), dim=-2)
        both = rows @ delta
        return both[:, :n_in], both[:, n_in]
    values = (inputs if mask is None else inputs * mask).to(flow.dtype).flatten(-3, -2)
    return values.mT @ delta, delta.sum(1)


class _Gather(torch.autograd.Function):
    """Rows of a stacked table by code, with the gradient that ``collect`` computes."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, table: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.n_in = table.shape[1]  # type: ignore[attr-defined]
        shape = (table.shape[0], *codes.shape[-2:], table.shape[2])
        if codes.ndim == 2:
            return table.index_select(1, codes.flatten()).view(shape)
        member = torch.arange(table.shape[0], device=codes.device)[:, None, None]
        return table[member, codes]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (codes,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return collect(codes, None, gradient, ctx.n_in)[0], None  # type: ignore[attr-defined]


def is_code(inputs: Tensor) -> bool:
    """Whether inputs are symbol codes, not values."""
    return not inputs.is_floating_point()
