"""One update rule whose rows are SGD, heavy ball, Nesterov, RMSprop and Adam, a row per member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.kernels.cpu import rule as kernel
from models.kernels.cpu.threads import over_members
from study.plan import Hyperparameters

OPTIMISERS: dict[str, str] = {
    "sgd": "gradient descent",
    "heavy_ball": "momentum (Polyak 1964)",
    "nesterov": "accelerated gradient (Nesterov 1983, as in Sutskever et al. 2013)",
    "rmsprop": "division by a running root mean square (Tieleman & Hinton 2012)",
    "adam": "bias-corrected momentum and RMS (Kingma & Ba 2015)",
}

EPSILON = 1e-8
"""Added to the root mean square; torch.optim's default for RMSprop and Adam."""


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What tells one optimiser from another, a row for each member: ``[K, 8]``, float64; see ``apply_update``."""

    table: Tensor

    def columns(self, like: Tensor) -> tuple[Tensor, ...]:
        """The columns, each ``[K, 1]``, in the precision and on the device of ``like``."""
        return self.table.to(like).unsqueeze(-1).unbind(1)


@dataclass(frozen=True, kw_only=True)
class RuleState:
    """Running averages of a stack's gradients, each ``[K, P]``, and the number of updates made."""

    velocity: Tensor
    square: Tensor
    n_updates: int


def init_rule(weights: Tensor) -> RuleState:
    """The state before the first update of flat parameters ``[K, P]``."""
    return RuleState(velocity=torch.zeros_like(weights), square=torch.zeros_like(weights), n_updates=0)


def coefficients(members: Sequence[Hyperparameters]) -> Coefficients:
    """The rows that the members' optimisers are."""
    rows = [_row(member) for member in members]
    return Coefficients(table=torch.tensor(rows, dtype=torch.float64).view(-1, kernel.N_COEFFICIENTS))


def _row(member: Hyperparameters) -> list[float]:
    name = member.optimiser
    momentum = member.momentum if name in {"heavy_ball", "nesterov", "adam"} else 0.0
    row = [0.0] * kernel.N_COEFFICIENTS
    row[kernel.CLIP_NORM] = member.clip_norm
    row[kernel.LEARNING_RATE] = member.learning_rate
    row[kernel.MOMENTUM] = momentum
    row[kernel.GRADIENT_SHARE] = 1 - momentum if name == "adam" else 1.0
    row[kernel.LOOKAHEAD] = name == "nesterov"
    row[kernel.SQUARE_DECAY] = member.square_decay
    row[kernel.ADAPTIVE] = name in {"rmsprop", "adam"}
    row[kernel.CORRECTED] = name == "adam"
    return row


def apply_update(weights: Tensor, gradient: Tensor, state: RuleState, rule: Coefficients) -> tuple[RuleState, Tensor]:
    """Clip the gradient's norm and update flat parameters ``[K, P]`` in place.

    ``g <- g min(1, clip / |g|)``; ``v <- mu v + s g``; ``q <- b q + (1 - b) g^2``; direction ``d = v``, or ``g + mu v``
    with look-ahead; step ``lr c_1 d / (sqrt(c_2 q) + eps)`` for adaptive rows, ``lr d`` for the others. ``s`` is 1 - mu
    for Adam and 1 else; ``c_1 = 1 / (1 - mu^n)`` and ``c_2 = 1 / (1 - b^n)`` for Adam at its n-th update and 1 else.

    Returns:
        The state after the update, whose tensors are those of ``state``, changed in place; and the gradient's norm
        before clipping, ``[K]``, float64.

    Source: the papers named in ``OPTIMISERS``, in the form that torch.optim gives them (momentum before the learning
    rate, epsilon outside the root, no dampening); clipping of Pascanu et al. 2013. Differs: nothing.
    """
    n = state.n_updates + 1
    after = RuleState(velocity=state.velocity, square=state.square, n_updates=n)
    if weights.device.type != "cpu":
        return after, _apply(weights, gradient, after, rule)
    norm = gradient.new_empty(len(weights), dtype=torch.float64)
    over_members(kernel.norms, len(weights), gradient, norm)
    arrays = (weights, gradient, state.velocity, state.square, rule.table, norm)
    over_members(kernel.update, len(weights), *arrays, n, EPSILON)
    return after, norm


def _apply(weights: Tensor, gradient: Tensor, state: RuleState, rule: Coefficients) -> Tensor:
    """The same as single operations on all members, for any device; returns the norm."""
    n, velocity, square = state.n_updates, state.velocity, state.square
    clip, rate, momentum, share, lookahead, decay, adaptive, corrected = rule.columns(weights)
    norm: Tensor = torch.linalg.vector_norm(gradient, dim=1, keepdim=True, dtype=torch.float64)
    gradient = gradient * (clip / norm).clamp_(max=1).to(weights.dtype)
    one = torch.ones_like(momentum)
    velocity.mul_(momentum).addcmul_(gradient, share)
    direction = torch.where(lookahead > 0, gradient + momentum * velocity, velocity)
    size = rate * torch.where(corrected > 0, 1 / (1 - momentum**n), one)
    square.mul_(decay).addcmul_(gradient * gradient, 1 - decay)
    correction = torch.where(corrected > 0, 1 / (1 - decay**n), one)
    # where, not a product with 0: an exploding gradient's infinite square must not reach the plain rows.
    root = (square * correction).sqrt_().add_(EPSILON)
    direction = torch.where(adaptive > 0, direction / root, direction)
    weights.addcmul_(direction, size, value=-1)
    return norm[:, 0]
