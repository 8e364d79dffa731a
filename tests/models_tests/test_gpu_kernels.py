"""Passes for GPUs against the plain cells: on a GPU where there is one, else step by step in Triton's interpreter."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from models_tests.test_fused import EVERY, Drawn, determined, distance, draw, passes
from torch import Tensor

from models import fusion
from models.cell import Cell
from models.drive import Drive
from models.elman import recurrent_gradient
from models.fused import fuse
from models.fusion import Fused
from models.kernels.cpu import passes as cpu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

CASES = [((1, 1, 1, 1), False), ((2, 4, 3, 5), True), ((1, 2, 17, 65), True), ((1, 3, 2, 140), False)]
"""Members, length, rows and units, and whether masked: one and several tiles, with and without padding."""

HOPPER = 90

PARAMETERS, OF_ONE_STEP = ("matrix", "retention", "bias"), ("carried", "d_kept")
"""What a pass reads at the same place at every step: parameters, and what goes from one step to the next."""

every_cell = pytest.mark.parametrize(("cell", "fast"), [one for one in EVERY if isinstance(fuse(one.values[0]), Fused)])


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        from models.kernels.gpu import passes as gpu

        patch.setattr(fusion, "kernels_for", lambda device: gpu)
        yield gpu


def moved(drawn: Drawn) -> Drawn:
    weights, drive, mask, cotangent = drawn
    return (
        {name: weight.to(DEVICE) for name, weight in weights.items()},
        Drive(parts=tuple(part.to(DEVICE) for part in drive.parts)),
        None if mask is None else mask.to(DEVICE),
        cotangent.to(DEVICE),
    )


@every_cell
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("sizes", "masked"), CASES, ids=str)
def test_gpu_passes_are_the_plain_cells(cell: Cell, fast: bool, sizes: tuple[int, int, int, int], masked: bool) -> None:
    drawn = moved(draw(cell, fast, sizes, scale=0.7, masked=masked, seed=7))
    expected = passes(cell, drawn, torch.float64)
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        for name, found in passes(fuse(cell), drawn, dtype).items():
            assert distance(found, expected[name]) <= bound, (name, dtype)


@every_cell
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("sizes", [(2, 5, 3, 10), (1, 3, 17, 66)], ids=str)
def test_gpu_gradients_are_the_plain_cells_when_symbols_select_the_drive(
    cell: Cell, fast: bool, sizes: tuple[int, int, int, int], own: bool
) -> None:
    n_members, length, n_batch, _ = sizes
    cell, n_symbols = cell.for_length(length), length - 1
    weights, drive, mask, cotangent = moved(draw(cell, fast, sizes, scale=0.7, masked=True, seed=3))
    places = (n_members, length, n_batch) if own else (length, n_batch)
    codes = torch.randint(n_symbols, places, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    table = Drive(parts=tuple(part[:, :n_symbols, 0].contiguous() for part in drive.parts), codes=codes)
    found = [one.gradients(weights, one.forward(weights, table, mask), mask, cotangent) for one in (fuse(cell), cell)]
    # Single precision; what is compared are sums of a few dozen terms of order one.
    torch.testing.assert_close(found[0].drive, found[1].drive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0].weights, found[1].weights, rtol=1e-5, atol=1e-5)


@every_cell
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("coded", [False, True], ids=["values", "codes"])
@pytest.mark.parametrize(
    ("sizes", "n_read"), [((1, 1, 2, 3), 1), ((2, 5, 3, 10), 2), ((2, 5, 3, 10), 5), ((1, 5, 17, 140), 1)], ids=str
)
def test_gpu_passes_read_the_last_states_without_a_tape_of_all(
    cell: Cell, fast: bool, sizes: tuple[int, int, int, int], n_read: int, coded: bool
) -> None:
    n_members, length, n_batch, n_hidden = sizes
    # A chain may be longer than the sequences.
    longer, own = (n_members, length + 1, n_batch, n_hidden), cell.for_length(length + 1)
    weights, drive, mask, _ = moved(draw(cell, fast, longer, scale=0.7, masked=not coded, seed=11))
    mask = None if mask is None else mask[:, :length]
    parts = tuple(part[:, :length].contiguous() for part in drive.parts)
    drive = Drive(parts=parts)
    if coded:
        codes = torch.randint(length, (length, n_batch), generator=torch.Generator().manual_seed(0)).to(DEVICE)
        drive = Drive(parts=tuple(part[:, :, 0].contiguous() for part in parts), codes=codes)
    assert fuse(own).n_kept(length, n_read, DEVICE) == min(n_read + 1, length)
    found, expected = (one.read(weights, drive, mask, n_read) for one in (fuse(own), own))
    # Single precision; states are of order one.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def signals_of(n_units: int) -> Tensor:
    """Error signals of two members at 340 places, which several programs share."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 20, 17, n_units, generator=generator, dtype=torch.float64).to(DEVICE)


@pytest.mark.parametrize("masked", [False, True])
def test_gpu_sums_of_outer_products_are_the_plain_cells(gpu: ModuleType, masked: bool) -> None:
    states, signals = signals_of(70), signals_of(130)
    mask = (states > 0).double() if masked else None
    total = torch.empty(2, 70, 130, dtype=torch.float64, device=DEVICE)
    gpu.multiply(states, mask, signals, total)
    torch.testing.assert_close(total, recurrent_gradient(states, mask, signals), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_symbols", [1, 70, 130])
def test_gpu_sums_by_symbol_are_those_of_the_drive(gpu: ModuleType, n_symbols: int) -> None:
    signals = signals_of(66)
    codes = torch.randint(n_symbols, (20, 17), generator=torch.Generator().manual_seed(3)).to(DEVICE)
    drive = Drive(parts=(torch.empty(2, n_symbols, 66, dtype=torch.float64, device=DEVICE),), codes=codes)
    gpu.collect(codes, (signals,), drive.parts)
    torch.testing.assert_close(drive.parts, drive.collect((signals,)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 255, 5000])
def test_gpu_noise_is_that_of_a_processor(gpu: ModuleType, n: int) -> None:
    keys, index, call = torch.tensor([0, 3, 2**63 - 1]), 2**40 + 2**31 + 3, 5
    on_gpu, on_cpu = torch.empty(3, n, device=DEVICE), torch.empty(3, n)
    gpu.uniform(keys.to(DEVICE), index, call, on_gpu)
    cpu.uniform(keys, index, call, on_cpu)
    assert torch.equal(on_gpu.cpu(), on_cpu)


@every_cell
@pytest.mark.usefixtures("gpu")
def test_gpu_passes_end_errors_where_the_plain_cells_do(cell: Cell, fast: bool) -> None:
    weights, drive, mask, cotangent = moved(draw(cell, fast, (3, 6, 3, 10), scale=0.7, masked=True, seed=5))
    assert cotangent.shape[1] == 3
    window, own = torch.tensor([2, 5, 10**12], device=DEVICE), cell.for_length(6)
    found, expected = (
        one.backward(weights, one.forward(weights, drive, mask), mask, cotangent, window) for one in (fuse(own), own)
    )
    # Single precision; what is compared are sums of a few dozen terms of order one.
    torch.testing.assert_close(found.drive, expected.drive, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.carousel, expected.carousel, rtol=1e-5, atol=1e-5)


@every_cell
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("scale", [30.0, 1e30, math.nan, math.inf])
def test_gpu_passes_are_finite_where_the_plain_cells_are(cell: Cell, fast: bool, scale: float) -> None:
    drawn = moved(determined(cell, draw(cell, fast, (2, 6, 3, 10), scale=scale, masked=True, seed=1), scale))
    plain = passes(cell, drawn, torch.float32)
    with np.errstate(all="ignore"):
        found = passes(fuse(cell), drawn, torch.float32)
    for name, values in found.items():
        # Where a sum overflows hangs on the order of its terms; that a member's does, does not.
        assert torch.equal(values.flatten(1).isfinite().all(1), plain[name].flatten(1).isfinite().all(1)), name


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, Any]]:
    if platform.machine() != "x86_64":
        pytest.skip("Triton brings its assembler for x86-64 only")
    script = Path(__file__).with_name("compile_for_gpu.py")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script), str(HOPPER)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert len(found) == 4 * (9 * 3 + 2) + 2
    return found


def test_gpu_passes_compile_for_a_hopper_without_leaving_its_registers(compiled: dict[str, dict[str, Any]]) -> None:
    for name, resources in compiled.items():
        # Nobody trains in double precision.
        assert resources["spilled_bytes"] == 0 or "fp64" in name, (name, resources)
        assert resources["shared_bytes"] <= 227 * 1024, (name, resources)


def test_gpu_passes_go_along_their_tapes_from_step_to_step(compiled: dict[str, dict[str, Any]]) -> None:
    """What the interpreter does not show: Triton can take a place that changes for one that does not."""
    for name, resources in compiled.items():
        # Its outer loop is over units, each of which goes through all steps by itself.
        if not name.startswith("min_gru"):
            assert set(resources["resting"]) <= {*PARAMETERS, *OF_ONE_STEP}, name
