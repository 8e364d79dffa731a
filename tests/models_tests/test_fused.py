"""Compiled passes in single precision, at all sizes, at extreme weights and in several threads.

That they are the cell's own step in double precision, gradients included, is tested by the contract.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torch import Generator, Tensor

from models import CELLS, FAST_CELLS
from models.activation import ACTIVATIONS
from models.cell import Cell, Weights
from models.drive import Drive
from models.fused import FusedMinGru, fuse
from models.fusion import Fused
from models.initial import SLOW
from models.kernels.cpu import nonlinearity, product, vectors
from models.min_gru import MinGru

EVERY = [pytest.param(cell, False, id=name) for name, cell in CELLS.items()]
EVERY += [pytest.param(cell, True, id=f"{name}-fast") for name, cell in FAST_CELLS.items()]
every_cell = pytest.mark.parametrize(("cell", "fast"), EVERY)


@every_cell
def test_fuse_leaves_a_cell_that_is_compiled_as_it_is(cell: Cell, fast: bool) -> None:
    fused = fuse(cell)
    if isinstance(fused, Fused):
        assert fuse(fused) is fused


def test_a_fused_cell_draws_what_the_plain_one_draws() -> None:
    class Loop(MinGru):
        def shapes(self, n_hidden: int) -> dict[str, tuple[int, ...]]:
            return {"loop": (n_hidden,)}

        def initial(self, generator: Generator, n_hidden: int) -> dict[str, Tensor]:
            return {"loop": torch.rand(n_hidden, generator=generator)}

    drawn = [made.initial(Generator().manual_seed(1), 5) for made in (Loop(), FusedMinGru(Loop()))]
    assert torch.equal(drawn[0]["loop"], drawn[1]["loop"])


Drawn = tuple[Weights, Drive, Tensor | None, Tensor]

SMOOTH = [one for one in EVERY if "rectifier" not in str(one.id)]


def draw(cell: Cell, fast: bool, sizes: tuple[int, int, int, int], *, scale: float, masked: bool, seed: int) -> Drawn:
    """Weights, drive, mask and cotangent in float32; sizes are members, length, batch and hidden units."""
    n_members, length, n_batch, n_hidden = sizes
    generator = Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shapes = cell.for_length(length).shapes(n_hidden)
    weights = {name: scale / n_hidden**0.5 * normal(n_members, *shape) for name, shape in shapes.items()}
    weights |= {name: one.float().repeat(n_members, 1) for name, one in cell.fixed(generator, n_hidden, SLOW).items()}
    drive = [normal(n_members, length, n_batch, cell.n_gates * n_hidden) for _ in range(1 + fast)]
    mask = None
    if fast:
        drive[1] = drive[1].square() + 0.01
        mask = torch.full((n_members, 1, 1), 0.7) if masked else None
    elif masked:
        kept = torch.rand((n_members, length, n_batch, n_hidden), generator=generator) < 0.7
        mask = kept.float() / 0.7
    # With and without the part of the variances, which fast dropout may have.
    width = 2 * n_hidden if fast and masked else n_hidden
    return weights, Drive(parts=tuple(drive)), mask, normal(n_members, 1 + length // 3, n_batch, width)


def determined(cell: Cell, drawn: Drawn, scale: float) -> Drawn:
    """The same without negative numbers where sums of a rectifier's overflow.

    With both signs it hangs on the order of a sum, and on fused multiplications, whether it becomes NaN or infinite; an
    error signal stops at a unit that is NaN, but not at an infinite one.
    """
    if scale != 1e30 or getattr(cell, "activation", None) is not ACTIVATIONS["rectifier"]:
        return drawn
    weights, drive, mask, cotangent = drawn
    positive = Drive(parts=tuple(part.abs() for part in drive.parts), codes=drive.codes)
    return {name: weight.abs() for name, weight in weights.items()}, positive, mask, cotangent.abs()


def passes(cell: Cell, drawn: Drawn, dtype: torch.dtype) -> dict[str, Tensor]:
    """All that the two passes yield, by name."""
    weights, drive, mask, cotangent = drawn
    cell = cell.for_length(drive.grid[1])
    cast = {name: weight.to(dtype) for name, weight in weights.items()}
    mask = None if mask is None else mask.to(dtype)
    cast_drive = Drive(parts=tuple(part.to(dtype) for part in drive.parts), codes=drive.codes)
    tape = cell.forward(cast, cast_drive, mask)
    flow = cell.backward(cast, tape, mask, cotangent.to(dtype))
    found = {"states": tape.states, "gates": tape.gates, "net": flow.net}
    found |= {f"drive {n}": part for n, part in enumerate(flow.drive)}
    found |= {f"weights {name}": gradient for name, gradient in flow.weights.items()}
    if flow.carousel is not None:
        found["carousel"] = flow.carousel
    return found


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry of each member."""
    difference = (found.double() - expected).flatten(1).abs().amax(1)
    return (difference / expected.flatten(1).abs().amax(1).clamp_min(1e-30)).max().item()


@every_cell
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 65), st.integers(1, 257)).filter(
        lambda sizes: math.prod(sizes) * sizes[3] < 3e7
    ),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_fused_is_the_plain_cell_at_all_sizes(
    cell: Cell, fast: bool, sizes: tuple[int, int, int, int], masked: bool, seed: int
) -> None:
    drawn = draw(cell, fast, sizes, scale=0.7, masked=masked, seed=seed)
    expected = passes(cell, drawn, torch.float64)
    plain = passes(cell, drawn, torch.float32)
    for name, found in passes(fuse(cell), drawn, torch.float32).items():
        # A rectifier at its kink may fall to either side by rounding, in the plain cell just as well.
        allowed = max(1e-5, 3 * distance(plain[name], expected[name]))
        assert distance(found, expected[name]) <= allowed, name


@every_cell
@pytest.mark.parametrize("n_read", [1, 4, 13])
def test_read_gives_the_last_states_of_the_forward_pass(cell: Cell, fast: bool, n_read: int) -> None:
    weights, drive, mask, _ = draw(cell, fast, (3, 13, 5, 18), scale=0.7, masked=True, seed=2)
    own = cell.for_length(13)
    for one in (own, fuse(own)):
        expected = one.forward(weights, drive, mask).states[:, -n_read:]
        assert torch.equal(one.read(weights, drive, mask, n_read), expected)


@pytest.mark.parametrize(("cell", "fast"), SMOOTH)
def test_fused_stays_within_single_precision_over_long_sequences(cell: Cell, fast: bool) -> None:
    # Contracting, so that a rounding is not amplified on its way: then the kernels alone are measured.
    drawn = draw(cell, fast, (2, 300, 7, 50), scale=0.5, masked=True, seed=3)
    expected = passes(cell, drawn, torch.float64)
    for name, found in passes(fuse(cell), drawn, torch.float32).items():
        assert distance(found, expected[name]) <= 1e-5, name


@every_cell
@pytest.mark.parametrize("scale", [0.0, 30.0, 1e30, math.nan, math.inf])
def test_fused_is_finite_where_the_plain_cell_is_at_extreme_weights(cell: Cell, fast: bool, scale: float) -> None:
    drawn = determined(cell, draw(cell, fast, (2, 12, 3, 10), scale=scale, masked=True, seed=1), scale)
    plain, fused = passes(cell, drawn, torch.float32), passes(fuse(cell), drawn, torch.float32)
    for name, found in fused.items():
        # Which units of a row overflow first hangs on the order of sums; that some do, does not.
        assert torch.equal(found.isfinite().all(-1), plain[name].isfinite().all(-1)), name


@every_cell
@pytest.mark.parametrize("sizes", [(1, 9, 5, 12), (3, 9, 1, 12), (2, 9, 20, 50)])
def test_results_do_not_depend_on_the_number_of_threads(
    cell: Cell, fast: bool, sizes: tuple[int, int, int, int]
) -> None:
    drawn = draw(cell, fast, sizes, scale=1.0, masked=True, seed=5)
    n_threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(passes(fuse(cell), drawn, torch.float32))
    finally:
        torch.set_num_threads(n_threads)
    for other in found[1:]:
        assert all(torch.equal(other[name], found[0][name]) for name in ("states", "net"))


@pytest.mark.parametrize(
    ("name", "exact", "low", "high", "bound"),
    [
        ("exp", torch.exp, -87.0, 88.0, 3e-7),
        ("tanh", torch.tanh, -20.0, 20.0, 6e-7),
        ("logistic", torch.sigmoid, -80.0, 80.0, 5e-7),
        # exp(-r^2 / 2) inherits half a unit in the last place of r^2 / 2, up to 88 of them.
        ("upper_tail", lambda r: torch.special.erfc(r * 0.5**0.5) / 2, 0.0, 12.5, 1e-5),
    ],
)
def test_nonlinearities_keep_what_their_docstrings_promise(
    name: str, exact: object, low: float, high: float, bound: float
) -> None:
    function = getattr(nonlinearity, name)

    @njit(error_model="numpy")
    def apply(values, out):  # type: ignore[no-untyped-def]
        for n in range(values.size):
            out[n] = function(values[n])

    values = torch.linspace(low, high, 1_000_001)
    out = torch.empty_like(values)
    apply(values.numpy(), out.numpy())
    expected = exact(values.double())  # type: ignore[operator]
    assert ((out - expected) / expected.abs().clamp_min(1e-37)).abs().max() <= bound
    special = torch.tensor([math.nan])
    apply(special.numpy(), out[:1].numpy())
    assert out[0].isnan()


@pytest.mark.parametrize("n_rows", range(1, 11))
@pytest.mark.parametrize("width", [1, 7, 8, 17, 40, 49])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("transposed", [False, True])
def test_product_is_torchs(n_rows: int, width: int, dtype: torch.dtype, transposed: bool) -> None:
    generator = Generator().manual_seed(n_rows)
    left = torch.randn(n_rows, 5, generator=generator, dtype=dtype)
    right = torch.randn(5, width, generator=generator, dtype=dtype)
    padded = vectors.padded(width, left.element_size())
    packed = torch.full((5 * padded,), math.nan, dtype=dtype)
    out = torch.full((n_rows, padded + 3), math.nan, dtype=dtype)
    steps = (1, 5) if transposed else (width, 1)
    items = (right.mT if transposed else right).contiguous().flatten()
    product.pack(items.numpy(), 0, *steps, 5, width, n_rows, packed.numpy())
    to = (out.view(-1).numpy(), 2, padded + 3)
    product.product(left.flatten().numpy(), 0, 5, packed.numpy(), *to, n_rows, 5, padded)
    torch.testing.assert_close(out[:, 2 : 2 + width], left @ right)
    assert (out[:, 2 + width : 2 + padded] == 0).all()
    assert out[:, :2].isnan().all()
    assert out[:, 2 + padded :].isnan().all()


@pytest.mark.parametrize("n_rows", range(1, 11))
@pytest.mark.parametrize("width", [1, 7, 8, 17, 40, 49])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outer_adds_torchs_product_of_the_transposed(n_rows: int, width: int, dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(n_rows)
    left = torch.randn(13, n_rows, generator=generator, dtype=dtype)
    padded = vectors.padded(width, left.element_size())
    right = torch.randn(13, padded + 3, generator=generator, dtype=dtype)
    out = torch.randn(n_rows, padded, generator=generator, dtype=dtype)
    expected = out + left.mT @ right[:, :padded]
    arrays = (left.flatten().numpy(), 0, n_rows, right.flatten().numpy(), 0, padded + 3)
    product.outer(*arrays, 13, out.view(-1).numpy(), n_rows, padded)
    torch.testing.assert_close(out, expected)
