"""The update rule against torch.optim and the papers' formulas: the same trajectory in float64, alone and mixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from study.plan import Hyperparameters
from study.training import rule
from study.training.rule import (
    CLIP_FALLBACKS,
    OPTIMISERS,
    Coefficients,
    RuleState,
    apply_update,
    coefficients,
    init_rule,
)

N_UPDATES = 50

SHAPES = {"input": (1, 2), "bias": (1,), "recurrent": (1, 2), "readout": (2, 1)}
"""Of the seven parameters that most tests have."""

MEMBERS = {
    "sgd": Hyperparameters(optimiser="sgd", clip_norm=math.inf, learning_rate=0.05),
    "heavy_ball": Hyperparameters(optimiser="heavy_ball", clip_norm=math.inf, learning_rate=0.02, momentum=0.9),
    "nesterov": Hyperparameters(optimiser="nesterov", clip_norm=math.inf, learning_rate=0.02, momentum=0.95),
    "rmsprop": Hyperparameters(optimiser="rmsprop", clip_norm=math.inf, learning_rate=0.003, square_decay=0.97),
    "adam": Hyperparameters(optimiser="adam", clip_norm=math.inf, learning_rate=0.01, momentum=0.8, square_decay=0.95),
    "vario_eta": Hyperparameters(optimiser="vario_eta", clip_norm=math.inf, learning_rate=0.003, square_decay=0.96),
}


def rows_of(members: list[Hyperparameters], shapes: dict[str, tuple[int, ...]] | None = None) -> Coefficients:
    return coefficients(members, shapes or SHAPES, torch.device("cpu"))


Apply = Callable[[Tensor, Tensor, RuleState, Coefficients], Tensor]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where the kernel for GPUs runs: without a GPU step by step in Triton's interpreter."""


def apply_on_gpu(weights: Tensor, gradient: Tensor, state: RuleState, rows: Coefficients) -> Tensor:
    held, averages = weights.to(DEVICE), RuleState(**{name: one.to(DEVICE) for name, one in vars(state).items()})
    moved = Coefficients(table=rows.table.to(DEVICE), roles=rows.roles.to(DEVICE))
    # The interpreter computes with numpy, which warns where a GPU would not.
    with np.errstate(all="ignore"):
        norm = apply_update(held, gradient.to(DEVICE), averages, moved)
    for name, one in vars(state).items():
        one.copy_(getattr(averages, name))
    weights.copy_(held)
    return norm.to(weights.device)


@pytest.fixture(params=["processor", "gpu", "plain"])
def apply(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Apply:
    if request.param == "processor":
        return apply_update
    if request.param == "plain":
        monkeypatch.setattr(rule, "kernels_for", lambda device: None)
        return apply_update
    if DEVICE.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    from models.kernels.gpu import passes

    monkeypatch.setattr(rule, "kernels_for", lambda device: passes)
    return apply_on_gpu


def reference(member: Hyperparameters, weights: list[Tensor], biases: list[Tensor]) -> torch.optim.Optimizer:
    rate, momentum, decay = member.learning_rate, member.momentum, member.square_decay
    groups = [{"params": weights, "weight_decay": member.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    return {
        "sgd": lambda: torch.optim.SGD(groups, lr=rate),
        "heavy_ball": lambda: torch.optim.SGD(groups, lr=rate, momentum=momentum),
        "nesterov": lambda: torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=True),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=rate, alpha=decay, eps=1e-8),
        "adam": lambda: torch.optim.Adam(groups, lr=rate, betas=(momentum, decay), eps=1e-8),
        "vario_eta": lambda: torch.optim.RMSprop(groups, lr=rate, alpha=decay, eps=1e-8, centered=True),
    }[member.optimiser]()


def gradient_of(weights: Tensor, update: int) -> Tensor:
    """Of a bumpy function, so that the trajectory depends on every earlier step."""
    target = torch.linspace(-1, 1, weights.shape[-1], dtype=weights.dtype)
    return torch.sin(3 * weights) + (weights - target) ** 3 + 0.1 * update / N_UPDATES


def trajectory(members: list[Hyperparameters], start: Tensor, apply: Apply, rows: Coefficients | None = None) -> Tensor:
    weights = start.clone()
    state, rows = init_rule(weights), rows or rows_of(members)
    for update in range(N_UPDATES):
        apply(weights, gradient_of(weights, update), state, rows)
    return weights


def torch_trajectory(member: Hyperparameters, start: Tensor) -> Tensor:
    """Of parameters whose third is the bias, with the gradient clipped before the optimiser sees it."""
    parts = [part.clone() for part in start.split([2, 1, 4])]
    optimiser = reference(member, [parts[0], parts[2]], [parts[1]])
    for update in range(N_UPDATES):
        gradient = gradient_of(torch.cat(parts), update)
        gradient *= min(1.0, member.clip_norm / float(gradient.norm()))
        for part, own in zip(parts, gradient.split([2, 1, 4]), strict=True):
            part.grad = own
        optimiser.step()
    return torch.cat(parts)


def test_every_optimiser_has_a_row_here() -> None:
    assert set(MEMBERS) == set(OPTIMISERS)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_apply_update_follows_torch_alone(name: str, apply: Apply) -> None:
    start = torch.randn(1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    # Float64 rounding over 50 steps, in another order of operations.
    torch.testing.assert_close(
        trajectory([MEMBERS[name]], start, apply)[0], torch_trajectory(MEMBERS[name], start[0]), rtol=1e-10, atol=1e-12
    )


def test_apply_update_follows_torch_when_mixed(apply: Apply) -> None:
    members = [MEMBERS[name] for name in (*OPTIMISERS, "adam")]
    start = torch.randn(len(members), 7, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = trajectory(members, start, apply)
    for k, member in enumerate(members):
        torch.testing.assert_close(found[k], torch_trajectory(member, start[k]), rtol=1e-10, atol=1e-12)


def test_apply_update_keeps_plain_rows_finite_when_an_adaptive_rows_square_overflows(apply: Apply) -> None:
    weights = torch.zeros(2, 3)
    gradient = torch.full((2, 3), 1e30)
    apply(weights, gradient, init_rule(weights), rows_of([MEMBERS["sgd"], MEMBERS["adam"]], {"input": (1, 3)}))
    torch.testing.assert_close(weights[0], torch.full((3,), -0.05 * 1e30))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_apply_update_clips_each_members_norm(apply: Apply, dtype: torch.dtype) -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [3e25, 4e25], [math.inf, 1.0], [math.nan, 1.0]]).to(
        dtype
    )
    members = [replace(MEMBERS["sgd"], learning_rate=1.0, clip_norm=1.0)] * len(gradient)
    weights = torch.zeros_like(gradient)
    norm = apply(weights, gradient, init_rule(weights), rows_of(members, {"input": (1, 2)}))
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0], [0.6, 0.8], [math.nan, 0.0], [math.nan, math.nan]])
    torch.testing.assert_close(-weights, expected.to(dtype), equal_nan=True)
    expected_norm = torch.tensor([5.0, 0.5, 0.0, 5e25, math.inf, math.nan], dtype=torch.float64)
    torch.testing.assert_close(norm, expected_norm, equal_nan=True, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_apply_update_decays_weights_as_torch_but_not_biases_after_clipping(name: str, apply: Apply) -> None:
    start = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    decaying = replace(MEMBERS[name], weight_decay=0.3)
    members = [decaying, replace(decaying, clip_norm=0.7)]
    found = trajectory(members, start, apply)
    for k, member in enumerate(members):
        torch.testing.assert_close(found[k], torch_trajectory(member, start[k]), rtol=1e-10, atol=1e-12)


def test_nesterov_is_the_simplified_form_of_bengio(apply: Apply) -> None:
    """Bengio et al. 2012, equations 6 and 7, with a constant momentum and rate, written out."""
    start = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    mu, rate = MEMBERS["nesterov"].momentum, MEMBERS["nesterov"].learning_rate
    theta, velocity = start.clone(), torch.zeros_like(start)
    for update in range(N_UPDATES):
        slope = gradient_of(theta, update)
        theta = theta + mu * mu * velocity - (1 + mu) * rate * slope
        velocity = mu * velocity - rate * slope
    found = trajectory([MEMBERS["nesterov"]], start[None], apply)[0]
    torch.testing.assert_close(found, theta, rtol=1e-10, atol=1e-12)


def test_nesterov_is_at_the_point_where_sutskever_takes_the_gradient(apply: Apply) -> None:
    """Sutskever et al. 2013, equations 3 and 4: v <- mu v - rate grad(theta + mu v), theta <- theta + v."""
    start = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    mu, rate = MEMBERS["nesterov"].momentum, MEMBERS["nesterov"].learning_rate
    theta, velocity = start.clone(), torch.zeros_like(start)
    for update in range(N_UPDATES):
        velocity = mu * velocity - rate * gradient_of(theta + mu * velocity, update)
        theta = theta + velocity
    found = trajectory([MEMBERS["nesterov"]], start[None], apply)[0]
    torch.testing.assert_close(found, theta + mu * velocity, rtol=1e-10, atol=1e-12)


def test_vario_eta_divides_by_the_standard_deviation_over_an_epoch() -> None:
    """Neuneier & Zimmermann 1998: the rate of a weight is eta over the deviation of its patterns' gradients."""
    patterns = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) + 0.5
    member = replace(MEMBERS["vario_eta"], learning_rate=1.0, square_decay=0.999)
    weights = torch.zeros(1, 7, dtype=torch.float64)
    state, rows = init_rule(weights), rows_of([member])
    for update in range(10_000):
        before = weights.clone()
        apply_update(weights, patterns[None, update % 4], state, rows)
    epoch = (patterns - patterns.mean(0)).square().mean(0).sqrt()
    # The last four patterns weigh 0.3 % more than the four before them, the start at zero exp(-10).
    torch.testing.assert_close(before - weights, (patterns[3] / epoch)[None], rtol=0.01, atol=0)


def test_vario_eta_finds_a_small_deviation_around_a_large_mean_in_float32(apply: Apply) -> None:
    generator, decay, deviation = torch.Generator().manual_seed(10), 0.9, 0.01
    weights = torch.zeros(1, 1000)
    state, rows = init_rule(weights), rows_of([replace(MEMBERS["vario_eta"], square_decay=decay)], {"input": (1, 1000)})
    for _ in range(500):
        gradient = 1000 + deviation * torch.randn(1, 1000, generator=generator)
        apply(weights, gradient, state, rows)
    # A variance of averages with these weights; its relative standard deviation is 0.3 for one of 1000 parameters.
    expected = 2 * decay / (1 + decay) * deviation**2
    assert float(state.square.mean()) == pytest.approx(expected, rel=6 * 0.33 / 1000**0.5)


BROKEN = [[math.nan, 0.0, 1.0], [math.inf, 1.0, 2.0], [2e10, 0.0, 1.0], [1.0, -math.inf, math.nan]]
TRUSTED = [[0.3, 0.0, 0.4], [3.0, 0.0, 4.0], [1e10, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_apply_update_shrinks_the_recurrent_matrix_where_a_gradient_cannot_be_trusted(
    apply: Apply, dtype: torch.dtype
) -> None:
    """Pascanu's program: the gradient by W_rec becomes 0.02 W_rec, all others 0; others are only clipped."""
    gradient = torch.tensor(BROKEN + TRUSTED, dtype=dtype)
    member = Hyperparameters(learning_rate=0.5, clip_norm=1.0, clip_fallback="shrink_recurrent")
    shapes = {"input": (1, 1), "recurrent": (1, 1), "readout_bias": (1,)}
    weights = torch.tensor([[5.0, -7.0, 3.0]], dtype=dtype).repeat(len(gradient), 1)
    expected = weights.clone()
    expected[: len(BROKEN), 1] -= 0.5 * 0.02 * -7.0
    expected[len(BROKEN) :] -= 0.5 * torch.tensor([[0.3, 0.0, 0.4], [0.6, 0.0, 0.8], [1.0, 0.0, 0.0]], dtype=dtype)
    norm = apply(weights, gradient, init_rule(weights), rows_of([member] * len(gradient), shapes))
    torch.testing.assert_close(weights, expected)
    # What is reported is the gradient's own norm.
    assert norm.isfinite().tolist() == [False, False, True, False, True, True, True]


def test_apply_update_adds_weight_decay_and_momentum_to_the_fallback(apply: Apply) -> None:
    member = Hyperparameters(
        optimiser="heavy_ball", learning_rate=1.0, momentum=0.5, weight_decay=0.1, clip_fallback="shrink_recurrent"
    )
    weights = torch.tensor([[4.0, 10.0, 3.0]], dtype=torch.float64)
    rows = rows_of([member], {"input": (1, 1), "recurrent": (1, 1), "bias": (1,)})
    state = init_rule(weights)
    state.velocity[:] = torch.tensor([1.0, 2.0, 3.0])
    apply(weights, torch.full((1, 3), math.nan, dtype=torch.float64), state, rows)
    # Steps of 0.5 + 0.4, 1 + 0.2 + 1 and 1.5.
    torch.testing.assert_close(weights, torch.tensor([[3.1, 7.8, 1.5]], dtype=torch.float64))


def test_apply_update_breaks_the_member_without_a_fallback_alone(apply: Apply) -> None:
    members = [replace(MEMBERS["adam"], clip_fallback=name) for name in CLIP_FALLBACKS]
    weights = torch.ones(2, 7)
    apply(weights, torch.full((2, 7), math.inf), init_rule(weights), rows_of(members))
    assert weights.isfinite().all(dim=1).tolist() == [name != "none" for name in CLIP_FALLBACKS]


@pytest.mark.parametrize("apply", ["processor", "gpu"], indirect=True)
def test_apply_update_is_the_plain_one_for_mixed_members_and_many_parameters(
    apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [
        replace(MEMBERS[name], clip_norm=clip, weight_decay=decay, clip_fallback=fallback)
        for name in OPTIMISERS
        for clip, decay, fallback in ((0.5, 0.0, "none"), (2.0, 0.2, "none"), (0.5, 0.1, "shrink_recurrent"))
    ]
    generator = torch.Generator().manual_seed(11)
    shapes = {"input": (3, 40), "bias": (40,), "recurrent": (40, 40), "recurrent_bias": (40,), "readout": (40, 2)}
    rows, n_parameters = rows_of(members, shapes), sum(math.prod(shape) for shape in shapes.values())
    found = torch.randn(len(members), n_parameters, dtype=torch.float64, generator=generator)
    plain, states = found.clone(), [init_rule(found), init_rule(found)]
    for update in range(20):
        gradient = torch.randn(found.shape, dtype=torch.float64, generator=generator)
        if update % 5 == 2:
            gradient[2::3, 7] = math.inf
        norm = apply(found, gradient, states[0], rows)
        with monkeypatch.context() as patch:
            patch.setattr(rule, "kernels_for", lambda device: None)
            torch.testing.assert_close(norm, apply_update(plain, gradient, states[1], rows))
    assert found.isfinite().all()
    torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(states[0].velocity, states[1].velocity, rtol=1e-10, atol=1e-12)


def test_apply_update_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [replace(MEMBERS[name], clip_norm=0.5, weight_decay=0.1) for name in OPTIMISERS]
    rows = rows_of(members, {"input": (1, 1001)})
    start = torch.randn(len(members), 1001, generator=torch.Generator().manual_seed(5))
    found = []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        found.append(trajectory(members, start, apply_update, rows))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
