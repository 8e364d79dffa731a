"""The update rule against torch.optim: the same trajectory in float64, row by row and mixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from study.plan import Hyperparameters
from study.training import rule
from study.training.rule import OPTIMISERS, Coefficients, RuleState, apply_update, coefficients, init_rule

N_UPDATES = 50

MEMBERS = {
    "sgd": Hyperparameters(optimiser="sgd", clip_norm=math.inf, learning_rate=0.05),
    "heavy_ball": Hyperparameters(optimiser="heavy_ball", clip_norm=math.inf, learning_rate=0.02, momentum=0.9),
    "nesterov": Hyperparameters(optimiser="nesterov", clip_norm=math.inf, learning_rate=0.02, momentum=0.95),
    "rmsprop": Hyperparameters(optimiser="rmsprop", clip_norm=math.inf, learning_rate=0.003, square_decay=0.97),
    "adam": Hyperparameters(optimiser="adam", clip_norm=math.inf, learning_rate=0.01, momentum=0.8, square_decay=0.95),
}


Apply = Callable[[Tensor, Tensor, RuleState, Coefficients], tuple[RuleState, Tensor]]


def apply_plain(weights: Tensor, gradient: Tensor, state: RuleState, rows: Coefficients) -> tuple[RuleState, Tensor]:
    """As on a GPU: single operations of torch."""
    after = replace(state, n_updates=state.n_updates + 1)
    return after, rule._apply(weights, gradient, after, rows)


both = pytest.mark.parametrize("apply", [apply_update, apply_plain], ids=["compiled", "plain"])


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


def trajectory(members: list[Hyperparameters], start: Tensor, apply: Apply) -> Tensor:
    weights = start.clone()
    state, rows = init_rule(weights), coefficients(members)
    for update in range(N_UPDATES):
        state, _ = apply(weights, gradient_of(weights, update), state, rows)
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


@both
@pytest.mark.parametrize("name", OPTIMISERS)
def test_apply_update_follows_torch_alone(name: str, apply: Apply) -> None:
    start = torch.randn(1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    # Float64 rounding over 50 steps, in another order of operations.
    torch.testing.assert_close(
        trajectory([MEMBERS[name]], start, apply)[0], torch_trajectory(MEMBERS[name], start[0]), rtol=1e-10, atol=1e-12
    )


@both
def test_apply_update_follows_torch_when_mixed(apply: Apply) -> None:
    members = [MEMBERS[name] for name in ("adam", "sgd", "nesterov", "rmsprop", "heavy_ball", "adam")]
    start = torch.randn(len(members), 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = trajectory(members, start, apply)
    for k, member in enumerate(members):
        torch.testing.assert_close(found[k], torch_trajectory(member, start[k]), rtol=1e-10, atol=1e-12)


@both
def test_apply_update_keeps_plain_rows_finite_when_an_adaptive_rows_square_overflows(apply: Apply) -> None:
    weights = torch.zeros(2, 3)
    gradient = torch.full((2, 3), 1e30)
    apply(weights, gradient, init_rule(weights), coefficients([MEMBERS["sgd"], MEMBERS["adam"]]))
    torch.testing.assert_close(weights[0], torch.full((3,), -0.05 * 1e30))


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_apply_update_clips_each_members_norm(apply: Apply, dtype: torch.dtype) -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [3e25, 4e25], [math.inf, 1.0], [math.nan, 1.0]]).to(
        dtype
    )
    members = [replace(MEMBERS["sgd"], learning_rate=1.0, clip_norm=1.0)] * len(gradient)
    weights = torch.zeros_like(gradient)
    _, norm = apply(weights, gradient, init_rule(weights), coefficients(members))
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0], [0.6, 0.8], [math.nan, 0.0], [math.nan, math.nan]])
    torch.testing.assert_close(-weights, expected.to(dtype), equal_nan=True)
    expected_norm = torch.tensor([5.0, 0.5, 0.0, 5e25, math.inf, math.nan], dtype=torch.float64)
    torch.testing.assert_close(norm, expected_norm, equal_nan=True, rtol=1e-6, atol=0)


def test_apply_update_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [replace(MEMBERS[name], clip_norm=0.5) for name in ("adam", "sgd", "nesterov", "rmsprop", "heavy_ball")]
    start = torch.randn(len(members), 1001, generator=torch.Generator().manual_seed(5))
    found = []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        found.append(trajectory(members, start, apply_update))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
