"""One update rule whose rows are SGD, heavy ball, Nesterov, RMSprop and Adam, a row per member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """What tells one optimiser from another, each ``[K, 1]``; see ``apply_update``."""

    learning_rate: Tensor
    momentum: Tensor
    gradient_share: Tensor
    lookahead: Tensor
    square_decay: Tensor
    adaptive: Tensor
    corrected: Tensor
    any_adaptive: bool


@dataclass(frozen=True, kw_only=True)
class RuleState:
    """Running averages of a stack's gradients, each ``[K, P]``, and the number of updates made."""

    velocity: Tensor
    square: Tensor
    n_updates: int


def init_rule(weights: Tensor) -> RuleState:
    """The state before the first update of flat parameters ``[K, P]``."""
    return RuleState(velocity=torch.zeros_like(weights), square=torch.zeros_like(weights), n_updates=0)


def coefficients(members: Sequence[Hyperparameters], like: Tensor) -> Coefficients:
    """The rows that the members' optimisers are, in the precision and on the device of ``like``."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]

    names = [member.optimiser for member in members]
    with_momentum = {"heavy_ball", "nesterov", "adam"}
    momentum = [m.momentum if m.optimiser in with_momentum else 0.0 for m in members]
    return Coefficients(
        learning_rate=column([m.learning_rate for m in members]),
        momentum=column(momentum),
        gradient_share=column([1 - mu if name == "adam" else 1.0 for mu, name in zip(momentum, names, strict=True)]),
        lookahead=column([float(name == "nesterov") for name in names]),
        square_decay=column([m.square_decay for m in members]),
        adaptive=column([float(name in {"rmsprop", "adam"}) for name in names]) > 0,
        corrected=column([float(name == "adam") for name in names]) > 0,
        any_adaptive=not {"rmsprop", "adam"}.isdisjoint(names),
    )


def apply_update(weights: Tensor, gradient: Tensor, state: RuleState, rule: Coefficients) -> RuleState:
    """Update flat parameters ``[K, P]`` in place.

    ``v <- mu v + s g``; ``q <- b q + (1 - b) g^2``; direction ``d = v``, or ``g + mu v`` with look-ahead; step
    ``lr c_1 d / (sqrt(c_2 q) + eps)`` for adaptive rows, ``lr d`` for the others. ``s`` is 1 - mu for Adam and 1 else;
    ``c_1 = 1 / (1 - mu^n)`` and ``c_2 = 1 / (1 - b^n)`` for Adam at its n-th update and 1 else.

    Returns:
        The state after the update; its tensors are those of ``state``, changed in place.

    Source: the papers named in ``OPTIMISERS``, in the form that torch.optim gives them (momentum before the learning
    rate, epsilon outside the root, no dampening). Differs: nothing.
    """
    n = state.n_updates + 1
    one = torch.ones_like(rule.momentum)
    state.velocity.mul_(rule.momentum).addcmul_(gradient, rule.gradient_share)
    direction = torch.where(rule.lookahead > 0, gradient + rule.momentum * state.velocity, state.velocity)
    size = rule.learning_rate * torch.where(rule.corrected, 1 / (1 - rule.momentum**n), one)
    if rule.any_adaptive:
        state.square.mul_(rule.square_decay).addcmul_(gradient * gradient, 1 - rule.square_decay)
        correction = torch.where(rule.corrected, 1 / (1 - rule.square_decay**n), one)
        # where, not a product with 0: an exploding gradient's infinite square must not reach the plain rows.
        root = (state.square * correction).sqrt_().add_(EPSILON)
        direction = torch.where(rule.adaptive, direction / root, direction)
    weights.addcmul_(direction, size, value=-1)
    return RuleState(velocity=state.velocity, square=state.square, n_updates=n)
