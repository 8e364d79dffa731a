"""Omega against its definition, differentiated by autograd with everything but the recurrent matrix held constant."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import grad

from models import CELLS
from models.cell import Cell, Flow, Tape
from models.drive import Drive
from models.fused import fuse
from study.plan import Hyperparameters
from study.training.omega import OMEGA_FORMS, Charges, charges, regularise

assert_close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
"""Float64; ratios of norms of vanishing errors cost a few digits."""

N_MEMBERS, LENGTH, N_SEQUENCES, N_HIDDEN = 2, 7, 4, 5

every_form = pytest.mark.parametrize("form", OMEGA_FORMS)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def owing(*members: Hyperparameters) -> Charges:
    owed = charges(members, torch.empty(0, dtype=torch.float64))
    assert owed is not None
    return owed


def paying(form: str, n_members: int = N_MEMBERS, weight: float = 1.0) -> Charges:
    return owing(*n_members * [Hyperparameters(omega_weight=weight, omega_form=form)])


def passes(cell: Cell, matrix: Tensor, drive: Tensor, cotangent: Tensor, mask: Tensor | None) -> tuple[Tape, Flow]:
    weights = {"recurrent": matrix}
    tape = cell.forward(weights, Drive(parts=(drive,)), mask)
    return tape, cell.backward(weights, tape, mask, cotangent)


def by_definition(
    form: str, cell: Cell, matrix: Tensor, *, drive: Tensor, cotangent: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Omega of one member and its gradient by W: Jacobians and errors from autograd, each step a constant.

    The arguments are one member's: drive and mask ``[T, B, H]``, cotangent ``[R, B, H]``.
    """
    free = matrix.clone().requires_grad_()

    def step(hidden: Tensor, t: int, w: Tensor) -> Tensor:
        return drive[t] + (hidden if mask is None else hidden * mask[t]) @ w

    def f(net: Tensor) -> Tensor:
        # From a zero state and without weights a step is the nonlinearity.
        still = {"recurrent": torch.zeros(1, N_HIDDEN, N_HIDDEN, dtype=torch.float64)}
        return cell.step(still, (torch.zeros_like(net)[None],), (net[None],), None)[0][0]

    hidden = torch.zeros_like(drive[0]).requires_grad_()
    states, nets = [hidden], []
    for t in range(LENGTH):
        nets.append(step(states[-1], t, matrix))
        states.append(f(nets[-1]))
    n_read = len(cotangent)
    loss = (torch.stack(states[-n_read:]) * cotangent).sum()
    net_errors, state_errors = grad(loss, nets, retain_graph=True), grad(loss, states)
    terms: list[Tensor] = []
    for t in range(LENGTH):
        if form == "pascanu2013_eq9" and t > 0:
            # x_k -> x_{k+1}, both net inputs.
            before = nets[t - 1].detach().requires_grad_()
            (after,) = grad(step(f(before), t, free), before, net_errors[t], create_graph=True)
            terms += list((after.norm(dim=-1) / net_errors[t].norm(dim=-1) - 1).square() / N_SEQUENCES)
        elif form == "pascanu2013_code":
            # h_{t-1} -> h_t.
            before = states[t].detach().requires_grad_()
            held = step(before, t, free)
            (slope,) = grad(f(nets[t]).sum(), nets[t])
            (after,) = grad(held, before, state_errors[t + 1] * slope, create_graph=True)
            square = state_errors[t + 1].square().sum(-1)
            ratios = after.square().sum(-1) / square
            terms += [(ratio - 1).square() for ratio, size in zip(ratios, square, strict=True) if size > 1e-20]
    omega = torch.stack(terms).sum() / (len(terms) if form == "pascanu2013_code" else 1)
    return omega.detach(), grad(omega, free)[0]


@every_form
@pytest.mark.parametrize("name", ["elman_tanh", "elman_logistic"])
@pytest.mark.parametrize("n_read", [1, 3, LENGTH])
@pytest.mark.parametrize("masked", [False, True])
def test_regularise_is_the_immediate_derivative_of_the_definition(
    form: str, name: str, n_read: int, masked: bool
) -> None:
    cell, matrix = CELLS[name], 0.6 * normal(N_MEMBERS, N_HIDDEN, N_HIDDEN, seed=1)
    drive = normal(N_MEMBERS, LENGTH, N_SEQUENCES, N_HIDDEN, seed=2)
    cotangent = normal(N_MEMBERS, n_read, N_SEQUENCES, N_HIDDEN, seed=3)
    mask = 0.2 + normal(N_MEMBERS, LENGTH, N_SEQUENCES, N_HIDDEN, seed=4).abs() if masked else None
    tape, flow = passes(cell, matrix, drive, cotangent, mask)
    values, gradients = regularise(paying(form), cell, matrix, tape=tape, flow=flow, cotangent=cotangent, mask=mask)
    for k in range(N_MEMBERS):
        mask_k = None if mask is None else mask[k]
        value, gradient = by_definition(form, cell, matrix[k], drive=drive[k], cotangent=cotangent[k], mask=mask_k)
        assert_close(values[k], value)
        assert_close(gradients[k], gradient)


@every_form
def test_regularise_asks_nothing_of_rotations_of_linear_units(form: str) -> None:
    rotation = torch.linalg.qr(normal(1, N_HIDDEN, N_HIDDEN, seed=1))[0]
    cotangent = normal(1, 1, N_SEQUENCES, N_HIDDEN, seed=2)
    cell = CELLS["elman_rectifier"]
    for factor in (1.0, 0.5):
        # Rectifiers that are always on are linear: all states are near 100.
        drive = torch.full((1, LENGTH, N_SEQUENCES, N_HIDDEN), 100.0, dtype=torch.float64)
        drive[:, 1:] -= drive[:, :-1] @ (factor * rotation)
        tape, flow = passes(cell, factor * rotation, drive, cotangent, None)
        assert (tape.states > 0).all()
        value, gradient = regularise(
            paying(form, 1), cell, factor * rotation, tape=tape, flow=flow, cotangent=cotangent, mask=None
        )
        expected = (factor - 1) ** 2 * (LENGTH - 1) if form == "pascanu2013_eq9" else (factor**2 - 1) ** 2
        assert_close(value, torch.tensor([expected], dtype=torch.float64))
        assert bool(gradient.abs().max() > 1e-6) == (factor != 1.0)


@every_form
def test_regularise_leaves_out_steps_without_an_error(form: str) -> None:
    cell, matrix = CELLS["elman_rectifier"], normal(1, N_HIDDEN, N_HIDDEN, seed=1)
    # All units are off until the last step but one, so that no error passes that.
    drive = torch.full((1, LENGTH, N_SEQUENCES, N_HIDDEN), -100.0, dtype=torch.float64)
    drive[:, -1] = 100.0
    cotangent = normal(1, 1, N_SEQUENCES, N_HIDDEN, seed=2)
    tape, flow = passes(cell, matrix, drive, cotangent, None)
    value, gradient = regularise(paying(form, 1), cell, matrix, tape=tape, flow=flow, cotangent=cotangent, mask=None)
    if form == "pascanu2013_eq9":
        # All of the last step's error is lost on units that are off, whatever the weights are.
        assert_close(value, torch.ones_like(value))
        assert not gradient.any()
    else:
        last, back = cotangent[0, 0], cotangent[0, 0] @ matrix[0].mT
        # The step before it has an error at its state, all of which is lost: a ratio of 0.
        ratios = back.square().sum(-1) / last.square().sum(-1)
        assert_close(value[0], (ratios - 1).square().mean() / 2 + 0.5)


def test_regularise_takes_each_members_own_weight_and_form() -> None:
    cell, matrix = fuse(CELLS["elman_tanh"]), 0.6 * normal(1, N_HIDDEN, N_HIDDEN, seed=1).repeat(4, 1, 1)
    drive = normal(1, LENGTH, N_SEQUENCES, N_HIDDEN, seed=2).repeat(4, 1, 1, 1)
    cotangent = normal(1, 1, N_SEQUENCES, N_HIDDEN, seed=3).repeat(4, 1, 1, 1)
    tape, flow = passes(cell, matrix, drive, cotangent, None)
    code = Hyperparameters(omega_weight=0.5, omega_form="pascanu2013_code")
    other = Hyperparameters(omega_weight=1.0, omega_form="pascanu2013_eq9")
    owed = owing(code, Hyperparameters(), replace(code, omega_weight=2.0), other)
    values, gradients = regularise(owed, cell, matrix, tape=tape, flow=flow, cotangent=cotangent, mask=None)
    assert math.isnan(values[1])
    assert not gradients[1].any()
    assert values[0] == values[2] != values[3]
    assert_close(gradients[2], 4 * gradients[0])


def test_regularise_refuses_a_cell_with_gates() -> None:
    cell, drive = CELLS["lstm"], normal(1, LENGTH, N_SEQUENCES, 4 * N_HIDDEN, seed=1)
    matrix, cotangent = normal(1, N_HIDDEN, 4 * N_HIDDEN, seed=2), normal(1, 1, N_SEQUENCES, N_HIDDEN, seed=3)
    tape, flow = passes(cell, matrix, drive, cotangent, None)
    with pytest.raises(ValueError, match="omega needs a simple recurrent cell, but got one of Hochreiter"):
        regularise(paying("pascanu2013_eq9", 1), cell, matrix, tape=tape, flow=flow, cotangent=cotangent, mask=None)
