"""Truncated backpropagation through time: every cell against autograd through states that are detached by a loop."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from models_tests.cell_book import EVERY, Case, assert_close, draw, every_cell
from torch import Generator, Tensor
from torch.autograd import grad

from models import CELLS
from models.cell import Cell, Flow, Gradients, Tape
from models.fusion import Fused
from models.network import Dropout, Network

compiled_cell = pytest.mark.parametrize(("cell", "fast"), [one for one in EVERY if isinstance(one.values[0], Fused)])


def windows(*steps: int) -> Tensor:
    return torch.tensor(steps, dtype=torch.int64)


def truncated(cell: Cell, case: Case, window: int) -> tuple[Tensor, ...]:
    """Gradients of one member whose state is detached where a window of that many steps, counted from the end, starts.

    First those by the mean of every step's net input, then those by all leaves.
    """
    parts = case.drive.dense()
    length = parts[0].shape[1]
    nudges = [torch.zeros_like(parts[0][:, t]).requires_grad_() for t in range(length)]
    state = cell.start(parts[0][:, 0, :, : parts[0].shape[-1] // cell.n_gates])
    hidden = []
    for t in range(length):
        if (length - t) % window == 0:
            state = tuple(part.detach() for part in state)
        mean, *others = (part[:, t] for part in parts)
        mask = case.mask[:, t] if case.mask is not None and case.mask.ndim == 4 else case.mask
        state = cell.step(cell.at_step(case.weights, t, length), state, (mean + nudges[t], *others), mask)
        hidden.append(state[0])
    read = torch.stack(hidden[-case.n_read :], dim=1)
    found = grad(read, (*nudges, *case.leaves), case.cotangent, allow_unused=True, materialize_grads=True)
    return torch.stack(found[:length], dim=1), *found[length:]


def found(gradients: Gradients) -> tuple[Tensor, ...]:
    return *gradients.drive, *gradients.weights.values()


@every_cell
@pytest.mark.parametrize("codes", ["none", "shared"])
def test_gradients_are_those_of_states_detached_between_windows(cell: Cell, fast: bool, codes: str) -> None:
    draws = random.Random(3)
    # 40 steps of 4 sequences are more rows than the compiled passes settle at a time.
    for seed, length in enumerate((1, 8, 11, 40)):
        n_read, masked = draws.choice((1, length, draws.randint(1, length))), draws.random() < 0.5
        sizes = {"length": length, "n_read": n_read, "n_hidden": draws.randint(1, 6)}
        case = draw(cell, fast, **sizes, masked=masked, codes=codes, seed=seed)
        window = windows(draws.randint(1, 4), draws.randint(1, length + 2), draws.randint(1, length + 2))
        alone = [truncated(cell, case.member(k), int(window[k])) for k in range(3)]
        net, *expected = (torch.cat(parts) for parts in zip(*alone, strict=True))
        tape = cell.forward(case.weights, case.drive, case.mask)
        flow = cell.backward(case.weights, tape, case.mask, case.cotangent, window)
        gradients = cell.gradients(case.weights, tape, case.mask, case.cotangent, window)
        assert_close(flow.net, net)
        assert_close(found(flow), tuple(expected))
        assert_close(found(gradients), tuple(expected))


@every_cell
@pytest.mark.parametrize("n_read", [1, 7])
def test_windows_as_long_as_the_sequence_cut_nothing(cell: Cell, fast: bool, n_read: int) -> None:
    case = draw(cell, fast, length=7, n_read=n_read)
    tape = cell.forward(case.weights, case.drive, case.mask)
    whole = cell.backward(case.weights, tape, case.mask, case.cotangent)
    cut = cell.backward(case.weights, tape, case.mask, case.cotangent, windows(7, 8, 10**12))
    assert torch.equal(cut.net, whole.net)
    assert all(torch.equal(one, other) for one, other in zip(found(cut), found(whole), strict=True))
    if whole.carousel is not None:
        assert cut.carousel is not None
        assert torch.equal(cut.carousel, whole.carousel)


@compiled_cell
def test_compiled_passes_do_not_look_at_steps_that_no_error_reaches(cell: Cell, fast: bool) -> None:
    """Nothing is saved by steps that are computed and come to nothing."""
    case = draw(cell, fast, length=9, n_read=2, codes="shared")
    tape = cell.forward(case.weights, case.drive, case.mask)
    window = windows(1, 2, 3)
    expected = cell.gradients(case.weights, tape, case.mask, case.cotangent, window)
    for k, n_reached in enumerate((2, 2, 3)):
        # The state before them multiplies the first error signal.
        tape.states[k, : 9 - n_reached - 1] = torch.nan
        for part in (tape.gates, *(saved for saved in tape.saved if saved.shape == tape.states.shape)):
            part[k, : 9 - n_reached - 1] = torch.nan
    again = cell.gradients(case.weights, tape, case.mask, case.cotangent, window)
    assert all(torch.equal(one, other) for one, other in zip(found(again), found(expected), strict=True))


NETWORK = Network(cell=CELLS["elman_tanh"], dropout=Dropout.NONE, n_in=3, n_hidden=4, n_out=2)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def network_weights(n_members: int) -> dict[str, Tensor]:
    return {
        name: (0.7 * normal(n_members, *shape, seed=seed)).requires_grad_()
        for seed, (name, shape) in enumerate(NETWORK.shapes().items())
    }


@pytest.mark.parametrize("n_read", [1, 4, 10])
@pytest.mark.parametrize("weight", [None, 0.3])
def test_network_gradients_are_those_of_a_loop_that_detaches(n_read: int, weight: float | None) -> None:
    """A penalty on all states is an error at every step, and ends where the others do."""
    window, inputs, weights = windows(1, 3, 4, 12), normal(10, 5, 3, seed=20), network_weights(4)
    target = normal(4, n_read, 5, 2, seed=21)
    loss = torch.zeros((), dtype=torch.float64)
    for k in range(4):
        w = {name: one[k] for name, one in weights.items()}
        h, states = torch.zeros(5, 4, dtype=torch.float64), []
        for t in range(10):
            h = h.detach() if (10 - t) % window[k] == 0 else h
            h = torch.tanh(inputs[t] @ w["input"] + w["bias"] + h @ w["recurrent"])
            states.append(h)
        output = torch.stack(states[-n_read:]) @ w["readout"] + w["readout_bias"]
        loss = loss + (output - target[k]).square().sum() + (weight or 0) * torch.stack(states).abs().sum() / 5
    expected = grad(loss, tuple(weights.values()))
    actual = NETWORK.gradients(
        weights,
        inputs,
        keep=None,
        noise=None,
        n_read=n_read,
        slope=lambda y: 2 * (y - target),
        l1_states=None if weight is None else torch.full((4,), weight, dtype=torch.float64),
        window=window,
    )
    assert_close(tuple(actual[name] for name in weights), expected)


def test_what_is_paid_for_the_error_flow_is_paid_for_the_whole_flow() -> None:
    inputs, weights, window = normal(10, 5, 3, seed=20), network_weights(3), windows(2, 5, 10)
    seen: list[Tensor] = []

    def penalty(tape: Tape, flow: Flow, cotangent: Tensor, mask: Tensor | None) -> Tensor:
        seen.append(flow.net)
        return torch.ones_like(flow.weights["recurrent"])

    def gradients(**more: Any) -> dict[str, Tensor]:
        return NETWORK.gradients(weights, inputs, keep=None, noise=None, n_read=1, slope=torch.ones_like, **more)

    _, flow = NETWORK.flow(weights, inputs, keep=None, n_read=1, slope=torch.ones_like)
    unpaid, paid = gradients(window=window), gradients(window=window, penalty=penalty)
    assert torch.equal(seen[0], flow.net)
    assert_close(paid.pop("recurrent"), unpaid.pop("recurrent") + 1)
    assert_close(paid, unpaid)
