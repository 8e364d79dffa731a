"""Nonlinearities, each with its slope as a function of its own value: what backpropagation through time needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A nonlinearity ``y = f(a)``, elementwise on any shape.

    ``slope_from_value`` gives f'(a) from y, as a new tensor; ``slope_max`` is the largest f'(a), the f'_max of
    Hochreiter's bound.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    slope_from_value: Callable[[Tensor], Tensor]
    slope_max: float


ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (
        Activation(name="tanh", function=torch.tanh, slope_from_value=lambda y: 1 - y * y, slope_max=1.0),
        Activation(name="logistic", function=torch.sigmoid, slope_from_value=lambda y: y * (1 - y), slope_max=0.25),
        # At the kink the slope is 0, as in torch.
        Activation(
            name="rectifier", function=torch.relu, slope_from_value=lambda y: (y > 0).to(y.dtype), slope_max=1.0
        ),
    )
}

tanh_backward: Callable[..., Tensor] = torch.ops.aten.tanh_backward
"""``(dE/dy, y) -> dE/dy (1 - y^2)`` in one pass, into ``grad_input`` where it is given."""

sigmoid_backward: Callable[..., Tensor] = torch.ops.aten.sigmoid_backward
"""``(dE/dy, y) -> dE/dy y (1 - y)`` in one pass, into ``grad_input`` where it is given."""
