"""The vanishing-gradient regulariser Omega: recurrent weights that neither shrink nor stretch errors on their way back.

Both forms take what the weights multiply for constants: their gradient is the immediate derivative by W alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.cell import Cell, Flow, Tape, Weights
from models.linear import linear, linear_back
from models.network import Penalty
from study.plan import Hyperparameters

OMEGA_FORMS: dict[str, str] = {
    "pascanu2013_eq9": "norms of the errors at net inputs, summed over steps",
    "pascanu2013_code": "squared norms of the errors at states, averaged over steps",
}
"""The forms of Omega: equation 9 of the paper, and what the program computes that its authors released."""

LEAST_SQUARE = 1e-20
"""Steps are left out at which the error's squared norm is smaller; it is that of a mean over the batch, as there."""


def omega_of_net_inputs(
    matrix: Tensor, delta: Tensor, slope: Tensor, n_read: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Omega as the paper has it, and its immediate derivative.

    ``Omega = mean_b sum_t (|f'(a_{t-1}) m_t (delta_t W^T)| / |delta_t| - 1)^2`` over t = 2 ... T: with x the net input,
    the sum over k of ``(|dE/dx_{k+1} dx_{k+1}/dx_k| / |dE/dx_{k+1}| - 1)^2``.

    Args:
        matrix: W, ``[K, H, H]``, for net inputs ``h W``.
        delta: dE/da_t of the batch's mean loss E, ``[K, T, B, H]``.
        slope: f'(a_t), ``[K, T, B, H]``.
        n_read: number R of final steps at which the loss reads the state.
        mask: m of recurrent dropout, ``[K, T, B, H]``, or None.

    Returns:
        Values ``[K]`` and gradients ``[K, H, H]``.

    Source: Pascanu et al. 2013, equations 9 and 10. Differs: the mean over a batch; steps whose error is as small as
    the authors' program disregards are left out here too.
    """
    arriving, slope, mask = delta[:, 1:], slope[:, :-1], None if mask is None else mask[:, 1:]
    # At a state that is not read, all of the error has come this way.
    passed, norm = delta[:, :-1], torch.linalg.vector_norm(delta, dim=-1)
    before, after = norm[:, 1:], norm[:, :-1].clone()
    if n_read > 1:
        passed, ends = passed.clone(), slice(1 - n_read, None)
        through = _through(matrix, arriving[:, ends], None if mask is None else mask[:, ends])
        passed[:, ends] = through.mul_(slope[:, ends])
        after[:, ends] = torch.linalg.vector_norm(through, dim=-1)
    counted = before.square() >= LEAST_SQUARE
    excess = torch.where(counted, after / before - 1, 0)
    n_sequences = delta.shape[2]
    # A norm has no derivative at zero: what arrives as nothing has no direction in which to grow.
    push = torch.where(counted & (after > 0), 2 / n_sequences * excess / (before * after), 0)
    d_through = (passed * push.unsqueeze(-1)).mul_(slope)
    return excess.square().sum((1, 2)) / n_sequences, _by_matrix(d_through, arriving, mask)


def omega_of_states(matrix: Tensor, delta: Tensor, cotangent: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Omega as the authors' program has it, and its immediate derivative.

    ``Omega = mean (|m_t (delta_t W^T)|^2 / |e_t|^2 - 1)^2``, with e_t = dE/dh_t, over the sequences and those steps
    t = 1 ... T with ``|e_t|^2 >= 1e-20``.

    Args:
        matrix: W, ``[K, H, H]``, for net inputs ``h W``.
        delta: dE/da_t of the batch's mean loss E, ``[K, T, B, H]``.
        cotangent: what the loss itself adds to e at the last R steps, ``[K, R, B, H]``.
        mask: m of recurrent dropout, ``[K, T, B, H]``, or None.

    Returns:
        Values ``[K]`` and gradients ``[K, H, H]``.

    Source: RNN.py of Pascanu et al. 2013. Differs: nothing.
    """
    passed = _through(matrix, delta, mask)
    after = torch.linalg.vector_norm(passed, dim=-1).square()
    # At a state that is not read, all of the error has come this way.
    second_read = delta.shape[1] - cotangent.shape[1] + 1
    read = cotangent.clone()
    read[:, :-1] += passed[:, second_read:]
    before = torch.cat((after[:, 1:second_read], read.square().sum(-1)), dim=1)
    counted = before >= LEAST_SQUARE
    excess = torch.where(counted, after / before - 1, 0)
    n_counted = counted.sum((1, 2)).clamp(min=1)
    push = torch.where(counted, 4 * excess / before, 0) / n_counted[:, None, None]
    return excess.square().sum((1, 2)) / n_counted, _by_matrix(passed.mul_(push.unsqueeze(-1)), delta, mask)


@dataclass(frozen=True, kw_only=True)
class Charges:
    """Who pays for Omega, and how much: for a stack that is not parted it is settled before the first update.

    ``members`` are the K hyperparameters, ``weight`` is the factor of Omega, ``[K]``, and ``paying`` selects those who
    pay for a form, by its name.
    """

    members: tuple[Hyperparameters, ...]
    weight: Tensor
    paying: Mapping[str, slice | Tensor]

    def of(self, part: slice) -> Charges | None:
        """The same for some of the members; None if none of them pays."""
        some = self.members[part]
        return self if len(some) == len(self.members) else charges(some, self.weight)


def charges(members: Sequence[Hyperparameters], like: Tensor) -> Charges | None:
    """What these members pay, in the precision and on the device of ``like``; None if none pays."""
    paying: dict[str, slice | Tensor] = {}
    for form in OMEGA_FORMS:
        at = [k for k, one in enumerate(members) if one.omega_weight > 0 and one.omega_form == form]
        if at:
            # A slice is a view, where a selection is a copy.
            paying[form] = slice(None) if len(at) == len(members) else torch.tensor(at, device=like.device)
    weight = like.new_tensor([one.omega_weight for one in members])
    return Charges(members=tuple(members), weight=weight, paying=paying) if paying else None


def omega_penalty(owed: Charges | None, cell: Cell, weights: Weights, values: Tensor) -> Penalty | None:
    """What members with these weights pay, which writes Omega into ``values`` ``[K]``; None if none does."""
    if owed is None:
        return None
    matrix = weights["recurrent"]

    def penalty(tape: Tape, flow: Flow, cotangent: Tensor, mask: Tensor | None) -> Tensor:
        value, gradient = regularise(owed, cell, matrix, tape=tape, flow=flow, cotangent=cotangent, mask=mask)
        values.copy_(value)
        return gradient

    return penalty


def regularise(
    owed: Charges, cell: Cell, matrix: Tensor, *, tape: Tape, flow: Flow, cotangent: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Omega of every member that pays for it, and its factor times its gradient.

    Args:
        owed: what the K members pay.
        cell: a simple recurrent cell.
        matrix: its W, ``[K, H, H]``.
        tape, flow: of its passes forward and back.
        cotangent: what the latter was given, ``[K, R, B, H]``.
        mask: m of recurrent dropout, ``[K, T, B, H]``, or None.

    Returns:
        Values ``[K]``, NaN where nothing is paid, and gradients ``[K, H, H]``, 0 there.

    Raises:
        ValueError: errors flow through the cell by other ways than W.
    """
    if cell.slope_max is None:
        raise ValueError(f"omega needs a simple recurrent cell, but got one of {cell.source}")
    values, gradients = matrix.new_full((len(matrix),), math.nan), torch.zeros_like(matrix)
    for form, at in owed.paying.items():
        delta, mask_at = flow.net[at], None if mask is None else mask[at]
        if form == "pascanu2013_code":
            value, gradient = omega_of_states(matrix[at], delta, cotangent[at], mask_at)
        else:
            # Of the one block that there is.
            slope = cell.relative_slope(tape.gates[at]).squeeze(-2).mul_(cell.slope_max)
            value, gradient = omega_of_net_inputs(matrix[at], delta, slope, cotangent.shape[1], mask_at)
        values[at], gradients[at] = value, owed.weight[at, None, None] * gradient
    return values, gradients


def _through(matrix: Tensor, delta: Tensor, mask: Tensor | None) -> Tensor:
    """``m_t (delta_t W^T)``: the error at a state that comes back through the recurrent weights."""
    through = linear(delta, matrix.mT)
    return through if mask is None else through.mul_(mask)


def _by_matrix(d_through: Tensor, delta: Tensor, mask: Tensor | None) -> Tensor:
    """Gradient by W of what depends on ``_through``, whose gradient is ``d_through``."""
    d_through = d_through if mask is None else d_through * mask
    return linear_back(d_through, delta)[0]
