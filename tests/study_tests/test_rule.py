"""The update rule against torch.optim: the same trajectory in float64, row by row and mixed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from study.plan import Hyperparameters
from study.training.rule import OPTIMISERS, apply_update, coefficients, init_rule

N_UPDATES = 50

MEMBERS = {
    "sgd": Hyperparameters(optimiser="sgd", learning_rate=0.05),
    "heavy_ball": Hyperparameters(optimiser="heavy_ball", learning_rate=0.02, momentum=0.9),
    "nesterov": Hyperparameters(optimiser="nesterov", learning_rate=0.02, momentum=0.95),
    "rmsprop": Hyperparameters(optimiser="rmsprop", learning_rate=0.003, square_decay=0.97),
    "adam": Hyperparameters(optimiser="adam", learning_rate=0.01, momentum=0.8, square_decay=0.95),
}


def reference(member: Hyperparameters, parameters: list[Tensor]) -> torch.optim.Optimizer:
    rate, momentum, decay = member.learning_rate, member.momentum, member.square_decay
    return {
        "sgd": lambda: torch.optim.SGD(parameters, lr=rate),
        "heavy_ball": lambda: torch.optim.SGD(parameters, lr=rate, momentum=momentum),
        "nesterov": lambda: torch.optim.SGD(parameters, lr=rate, momentum=momentum, nesterov=True),
        "rmsprop": lambda: torch.optim.RMSprop(parameters, lr=rate, alpha=decay, eps=1e-8),
        "adam": lambda: torch.optim.Adam(parameters, lr=rate, betas=(momentum, decay), eps=1e-8),
    }[member.optimiser]()


def gradient_of(weights: Tensor, update: int) -> Tensor:
    """Of a bumpy function, so that the trajectory depends on every earlier step."""
    target = torch.linspace(-1, 1, weights.shape[-1], dtype=weights.dtype)
    return torch.sin(3 * weights) + (weights - target) ** 3 + 0.1 * update / N_UPDATES


def trajectory(members: list[Hyperparameters], start: Tensor) -> Tensor:
    weights = start.clone()
    state, rule = init_rule(weights), coefficients(members, weights)
    for update in range(N_UPDATES):
        state = apply_update(weights, gradient_of(weights, update), state, rule)
    return weights


def torch_trajectory(member: Hyperparameters, start: Tensor) -> Tensor:
    parameter = start.clone().requires_grad_()
    optimiser = reference(member, [parameter])
    for update in range(N_UPDATES):
        parameter.grad = gradient_of(parameter.detach(), update)
        optimiser.step()
    return parameter.detach()


def test_every_optimiser_has_a_row_here() -> None:
    assert set(MEMBERS) == set(OPTIMISERS)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_apply_update_follows_torch_alone(name: str) -> None:
    start = torch.randn(1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    # Float64 rounding over 50 steps, in another order of operations.
    torch.testing.assert_close(
        trajectory([MEMBERS[name]], start)[0], torch_trajectory(MEMBERS[name], start[0]), rtol=1e-10, atol=1e-12
    )


def test_apply_update_follows_torch_when_mixed() -> None:
    members = [MEMBERS[name] for name in ("adam", "sgd", "nesterov", "rmsprop", "heavy_ball", "adam")]
    start = torch.randn(len(members), 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = trajectory(members, start)
    for k, member in enumerate(members):
        torch.testing.assert_close(found[k], torch_trajectory(member, start[k]), rtol=1e-10, atol=1e-12)


def test_apply_update_keeps_plain_rows_finite_when_an_adaptive_rows_square_overflows() -> None:
    members = [MEMBERS["sgd"], MEMBERS["adam"]]
    weights = torch.zeros(2, 3)
    gradient = torch.full((2, 3), 1e30)
    apply_update(weights, gradient, init_rule(weights), coefficients(members, weights))
    torch.testing.assert_close(weights[0], torch.full((3,), -0.05 * 1e30))
