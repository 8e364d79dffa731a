"""What every cell must hold: its fused pass is its own step under autograd, and members of a stack do not mix.

A new cell is covered by its entry in ``CELLS`` or ``FAST_CELLS``.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from models_tests.cell_book import LEAK, LONGEST, N_SEQUENCES, Case, assert_close, draw, every_cell
from torch import Generator, Tensor
from torch.autograd import forward_ad, grad, gradcheck

from models.cell import Cell
from models.drive import Drive
from models.unroll import unroll, unroll_reference

SIZES = [sizes for sizes in itertools.product((1, 3), (1, 7), (1, 5), (1, 3)) if sizes[3] <= sizes[1]]
"""Members, length, hidden units, steps that are read."""


def run(cell: Cell, case: Case) -> tuple[Tensor, ...]:
    """Values and all gradients of the fused pass."""
    read = unroll(cell, case.weights, case.drive, case.mask, case.n_read)
    return read, *grad(read, case.leaves, case.cotangent)


@every_cell
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_unroll_equals_its_reference(cell: Cell, fast: bool, masked: bool, sizes: tuple[int, int, int, int]) -> None:
    n_members, length, n_hidden, n_read = sizes
    case = draw(
        cell, fast, n_members=n_members, length=length, n_hidden=n_hidden, n_read=n_read, masked=masked, seed=length
    )
    assert_run_is_the_references(cell, case)


@every_cell
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("codes", ["shared", "own"])
# More rows than the error signals of one go: the gradients are added up in several.
@pytest.mark.parametrize("length", [1, 7, LONGEST])
def test_unroll_equals_its_reference_when_symbols_select_the_drive(
    cell: Cell, fast: bool, masked: bool, codes: str, length: int
) -> None:
    assert_run_is_the_references(
        cell, draw(cell, fast, length=length, n_read=1, masked=masked, codes=codes, seed=length)
    )


def assert_run_is_the_references(cell: Cell, case: Case) -> None:
    n_read = case.n_read
    read = unroll_reference(cell, case.weights, case.drive, case.mask, n_read)
    # A recurrent weight does not matter in a sequence of one step, and autograd then calls it unused.
    expected = grad(read, case.leaves, case.cotangent, allow_unused=True, materialize_grads=True)
    assert_close(run(cell, case), (read, *expected))


@every_cell
def test_tangent_is_the_forward_derivative_of_a_step(cell: Cell, fast: bool) -> None:
    case = draw(cell, fast)
    weights = {name: weight.detach() for name, weight in case.weights.items()}
    drive, mask, n = tuple(part.detach() for part in case.drive.parts), case.mask if fast else None, 2
    tape = cell.forward(weights, Drive(parts=drive), mask)
    generator = Generator().manual_seed(1)
    state = cell.start(tape.states[:, 0, :n])
    steps = list(zip(*(part[:, :, :n].unbind(1) for part in drive), strict=True))
    for t, step in enumerate(steps):
        tangent = tuple(torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in state)
        with forward_ad.dual_level():
            here = cell.at_step(weights, t, len(steps))
            after = cell.step(here, tuple(map(forward_ad.make_dual, state, tangent)), step, mask)
            pairs = [forward_ad.unpack_dual(part) for part in after]
            expected = tuple(pair.tangent.clone() for pair in pairs)
            state = tuple(pair.primal.clone() for pair in pairs)
        assert_close(cell.tangent(weights, tape, t, tangent, mask), expected)


@every_cell
def test_unroll_has_the_gradient_of_finite_differences(cell: Cell, fast: bool) -> None:
    case = draw(cell, fast, n_members=2, length=3, n_hidden=2, n_read=2)
    names, n_parts = tuple(case.weights), len(case.drive.parts)
    # The gradient of what is not trained is zero by definition, not by its differences.
    for name in cell.fixed(Generator(), 2, LEAK):
        case.weights[name].requires_grad_(False)

    def read(*leaves: Tensor) -> Tensor:
        weights = dict(zip(names, leaves[n_parts:], strict=True))
        return unroll(cell, weights, Drive(parts=leaves[:n_parts]), case.mask, case.n_read)

    # A truncated gradient is not that of the values; the reference, which is cut at the same places, checks it.
    assert gradcheck(read, case.leaves, raise_exception=False) == cell.exact_gradient


@every_cell
def test_flow_is_the_error_signal_at_every_net_input(cell: Cell, fast: bool) -> None:
    case = draw(cell, fast)
    mean = case.drive.parts[0]
    nudges = [torch.zeros_like(mean[:, t]).requires_grad_() for t in range(mean.shape[1])]
    nudged = Drive(parts=(mean.detach() + torch.stack(nudges, dim=1), *case.drive.parts[1:]))
    read = unroll_reference(cell, case.weights, nudged, case.mask, case.n_read)
    expected = torch.stack(grad(read, nudges, case.cotangent), dim=1)
    tape = cell.forward(case.weights, case.drive, case.mask)
    flow = cell.backward(case.weights, tape, case.mask, case.cotangent)
    assert_close(flow.net, expected)
    assert_close(flow.drive[0], expected)
    gradients = cell.gradients(case.weights, tape, case.mask, case.cotangent)
    assert_close((gradients.drive, gradients.weights), (flow.drive, flow.weights))


@every_cell
def test_passes_have_the_shapes_of_the_contract(cell: Cell, fast: bool) -> None:
    n_members, length, n_hidden = 2, 6, 5
    case = draw(cell, fast, n_members=n_members, length=length, n_hidden=n_hidden)
    hidden, wide = (n_members, length, N_SEQUENCES, n_hidden), (n_members, length, N_SEQUENCES, cell.n_gates * n_hidden)
    tape = cell.forward(case.weights, case.drive, case.mask)
    flow = cell.backward(case.weights, tape, case.mask, case.cotangent)
    if "recurrent" in cell.shapes(n_hidden):
        assert cell.shapes(n_hidden)["recurrent"][-2:] == (n_hidden, cell.n_gates * n_hidden)
    matrices = cell.matrices(case.weights, length)
    assert matrices is None or matrices.shape in {(n_members, m, n_hidden, wide[-1]) for m in (1, length - 1)}
    assert 0 <= cell.candidate_gate < cell.n_gates
    gates = (*hidden[:-1], cell.n_gates, n_hidden)
    assert (tape.states.shape, tape.gates.shape) == (hidden, gates)
    assert (flow.net.shape, [part.shape for part in flow.drive]) == (wide, [wide] * len(case.drive.parts))
    assert {name: tuple(g.shape) for name, g in flow.weights.items()} == {
        name: (n_members, *shape) for name, shape in cell.shapes(n_hidden).items()
    }
    assert flow.carousel is None or flow.carousel.shape == hidden
    assert cell.relative_slope(tape.gates).shape == gates


@every_cell
def test_stack_is_its_members_alone(cell: Cell, fast: bool) -> None:
    case = draw(cell, fast)
    alone = [run(cell, case.member(k)) for k in range(3)]
    assert_close(run(cell, case), tuple(torch.cat(parts) for parts in zip(*alone, strict=True)))


@every_cell
def test_unroll_does_not_care_how_the_drive_lies_in_memory(cell: Cell, fast: bool) -> None:
    case = draw(cell, fast)
    shared = tuple(part[:1].detach().expand(3, -1, -1, -1) for part in case.drive.parts)
    strided = tuple(part.contiguous().transpose(1, 2).contiguous().transpose(1, 2) for part in shared)
    packed = tuple(part.contiguous() for part in shared)
    results = []
    for drive in (shared, strided, packed):
        leaves = tuple(part.requires_grad_() for part in drive)
        laid = Case(weights=case.weights, drive=Drive(parts=leaves), mask=case.mask, cotangent=case.cotangent)
        results.append(run(cell, laid))
    assert_close(results[0], results[2])
    assert_close(results[1], results[2])


@every_cell
def test_unroll_gives_the_same_gradient_twice(cell: Cell, fast: bool) -> None:
    case = draw(cell, fast)
    read = unroll(cell, case.weights, case.drive, case.mask, case.n_read)
    first = grad(read, case.leaves, case.cotangent, retain_graph=True)
    with torch.no_grad():
        read.zero_()
    assert all(torch.equal(a, b) for a, b in zip(first, grad(read, case.leaves, case.cotangent), strict=True))


@every_cell
def test_unroll_keeps_single_precision(cell: Cell, fast: bool) -> None:
    case = draw(cell, fast, length=4)
    single = Case(
        weights={name: weight.detach().float().requires_grad_() for name, weight in case.weights.items()},
        drive=Drive(parts=tuple(part.detach().float().requires_grad_() for part in case.drive.parts)),
        mask=None if case.mask is None else case.mask.float(),
        cotangent=case.cotangent.float(),
    )
    for actual, expected in zip(run(cell, single), run(cell, case), strict=True):
        assert actual.dtype == torch.float32
        # Roundoff of 6e-8 per operation, amplified over four steps by matrices of norm about 3.
        torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-4)


@every_cell
@pytest.mark.parametrize("n_read", [0, 8])
def test_unroll_raises_when_it_cannot_read_that_many_steps(cell: Cell, fast: bool, n_read: int) -> None:
    case = draw(cell, fast)
    with pytest.raises(ValueError, match=f"1 <= n_read <= T must hold, but got n_read={n_read}, T=7"):
        unroll(cell, case.weights, case.drive, case.mask, n_read)
