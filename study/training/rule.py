"""One update rule whose rows are SGD, heavy ball, Nesterov, RMSprop, Adam and VarioEta, a row per member."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.fusion import kernels_for
from models.kernels import coefficients as layout
from study.plan import Hyperparameters

OPTIMISERS: dict[str, str] = {
    "sgd": "gradient descent",
    "heavy_ball": "momentum (Polyak 1964)",
    "nesterov": "accelerated gradient (Nesterov 1983, as simplified by Bengio et al. 2012)",
    "rmsprop": "division by a running root mean square (Tieleman & Hinton 2012)",
    "adam": "bias-corrected momentum and RMS (Kingma & Ba 2015)",
    "vario_eta": "division by a running standard deviation (Neuneier & Zimmermann 1998)",
}
"""What each divides by or accumulates, and its source, in the form that torch.optim gives them: momentum before the
learning rate, epsilon outside the root, no dampening.

``nesterov`` is equation 7 of Bengio et al. 2012, whose v is -lr times ours, at the point that they call Theta: the
parameters of Sutskever et al. 2013 plus mu times their v. Rates or momenta that change between updates, which are not
offered, would tell this form from theirs.

``vario_eta`` is torch's centred RMSprop. Its source takes the standard deviation over all patterns of an epoch; data
that are drawn afresh have no epochs, and averages that run and start from zero are ours.
"""

CLIP_FALLBACKS: dict[str, float] = {"none": 0.0, "shrink_recurrent": 0.02}
"""Share of the recurrent matrix that stands for a gradient that cannot be trusted; 0 where the gradient stays."""

EPSILON = 1e-8
"""Added to the root mean square or standard deviation; torch.optim's default for RMSprop and Adam."""


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What tells one member's updates from another's, and one parameter's from another's; see ``apply_update``.

    ``table`` holds a row for each member, ``[K, 11]``, float64; ``roles`` what every parameter is, ``[P]``, int8.
    """

    table: Tensor
    roles: Tensor

    def columns(self, like: Tensor) -> tuple[Tensor, ...]:
        """The columns, each ``[K, 1]``, in the precision and on the device of ``like``."""
        return self.table.to(like).unsqueeze(-1).unbind(1)


@dataclass(frozen=True, kw_only=True)
class RuleState:
    """Running averages of a stack's gradients, each ``[K, P]``, and the number of updates made, float64 ``[]``.

    Updates change all of them in place.
    """

    velocity: Tensor
    square: Tensor
    n_updates: Tensor


def init_rule(weights: Tensor) -> RuleState:
    """The state before the first update of flat parameters ``[K, P]``."""
    n_updates = weights.new_zeros((), dtype=torch.float64)
    return RuleState(velocity=torch.zeros_like(weights), square=torch.zeros_like(weights), n_updates=n_updates)


def coefficients(
    members: Sequence[Hyperparameters], shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> Coefficients:
    """The rows that the members' optimisers are, for parameters of these shapes by name, as they lie in ``[K, P]``."""
    rows = [_row(member) for member in members]
    table = torch.tensor(rows, dtype=torch.float64, device=device).view(-1, layout.N_COEFFICIENTS)
    roles = [torch.full((math.prod(shape),), _role(name, shape), dtype=torch.int8) for name, shape in shapes.items()]
    return Coefficients(table=table, roles=torch.cat(roles).to(device))


def _role(name: str, shape: tuple[int, ...]) -> int:
    if name == "recurrent":
        return layout.RECURRENT
    return layout.MATRIX if len(shape) > 1 else layout.BIAS


def _row(member: Hyperparameters) -> list[float]:
    name, decay = member.optimiser, member.square_decay
    momentum = {"heavy_ball": member.momentum, "nesterov": member.momentum, "adam": member.momentum, "vario_eta": decay}
    row = [0.0] * layout.N_COEFFICIENTS
    row[layout.CLIP_NORM] = member.clip_norm
    row[layout.LEARNING_RATE] = member.learning_rate
    row[layout.MOMENTUM] = momentum.get(name, 0.0)
    row[layout.GRADIENT_SHARE] = 1 - momentum[name] if name in {"adam", "vario_eta"} else 1.0
    row[layout.LOOKAHEAD] = name == "nesterov"
    row[layout.SQUARE_DECAY] = decay
    row[layout.ADAPTIVE] = name in {"rmsprop", "adam", "vario_eta"}
    row[layout.CORRECTED] = name == "adam"
    row[layout.CENTRED] = name == "vario_eta"
    row[layout.WEIGHT_DECAY] = member.weight_decay
    row[layout.FALLBACK] = CLIP_FALLBACKS[member.clip_fallback]
    return row


def apply_update(weights: Tensor, gradient: Tensor, state: RuleState, rule: Coefficients) -> Tensor:
    """Clip the gradient's norm and update flat parameters ``[K, P]`` in place.

    ``g`` from ``_prepare``; ``v <- mu v + s g``; ``q <- b q + (1 - b) g^2``; direction ``d = v``, or ``g + mu v`` with
    look-ahead; step ``lr c_1 d / (sqrt(c_2 q) + eps)`` for adaptive rows, ``lr d`` for the others. ``s`` is 1 - mu for
    Adam and VarioEta and 1 else; ``c_1 = 1 / (1 - mu^n)`` and ``c_2 = 1 / (1 - b^n)`` for Adam at its n-th update and 1
    else. VarioEta has mu = b, d = g and, with v of before, ``q <- b (q + (1 - b) (g - v)^2)``: the running mean square
    less the square of the running mean v, without their cancellation.

    Returns:
        The gradient's norm before clipping, ``[K]``, float64. The state is changed in place.

    Source: the papers named in ``OPTIMISERS``, as it says. Differs: as it says.
    """
    state.n_updates.add_(1)
    kernels = kernels_for(weights.device)
    if kernels is None:
        return _apply_plain(weights, gradient, state, rule)
    norm = gradient.new_empty(len(weights), dtype=torch.float64)
    averages = (state.velocity, state.square)
    kernels.apply_rule(weights, gradient, *averages, rule.table, rule.roles, norm, state.n_updates, EPSILON)
    return norm


def _apply_plain(weights: Tensor, gradient: Tensor, state: RuleState, rule: Coefficients) -> Tensor:
    """The same as single operations on all members, for any device; the update is counted already."""
    n, velocity, square = state.n_updates.to(weights.dtype), state.velocity, state.square
    _, rate, momentum, share, lookahead, decay, adaptive, corrected, centred, _, _ = rule.columns(weights)
    gradient, norm = _prepare(weights, gradient, rule)
    one = torch.ones_like(momentum)
    spread = torch.where(centred > 0, decay * (gradient - velocity).square(), gradient.square())
    velocity.mul_(momentum).addcmul_(gradient, share)
    direction = torch.where(lookahead > 0, gradient + momentum * velocity, velocity)
    direction = torch.where(centred > 0, gradient, direction)
    size = rate * torch.where(corrected > 0, 1 / (1 - momentum**n), one)
    square.mul_(decay).addcmul_(spread, 1 - decay)
    correction = torch.where(corrected > 0, 1 / (1 - decay**n), one)
    # where, not a product with 0: an exploding gradient's infinite square must not reach the plain rows.
    root = (square * correction).sqrt_().add_(EPSILON)
    direction = torch.where(adaptive > 0, direction / root, direction)
    weights.addcmul_(direction, size, value=-1)
    return norm


def _prepare(weights: Tensor, gradient: Tensor, rule: Coefficients) -> tuple[Tensor, Tensor]:
    """Gradients ``[K, P]`` that are clipped, replaced where they cannot be trusted, and with weight decay; their norms.

    ``g <- g min(1, clip / |g|)``, then ``g <- g + decay w`` where w is not a bias. For rows with a fallback, a gradient
    whose norm is not finite or above 1e10 becomes 0.02 W for the recurrent matrix W and 0 for all other parameters.

    Source: Pascanu et al. 2013, and the fallback of their program; decay as in torch, whose optimisers add it after
    clip_grad_norm_. Differs: biases do not decay, or gates would forget what they are biased to keep.
    """
    clip, *_, weight_decay, fallback = rule.columns(weights)
    norm: Tensor = torch.linalg.vector_norm(gradient, dim=1, keepdim=True, dtype=torch.float64)
    gradient = gradient * (clip / norm).clamp_(max=1).to(weights.dtype)
    # Written so that NaN is not trusted.
    replaced = (fallback > 0) & ~(norm <= layout.LARGEST_NORM)
    gradient = torch.where(replaced, fallback * weights * (rule.roles == layout.RECURRENT), gradient)
    return gradient.addcmul_(weight_decay * (rule.roles != layout.BIAS), weights), norm[:, 0]
