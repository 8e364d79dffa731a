"""Recurrent kernels beside the machine's own matrix product."""

from __future__ import annotations

import torch

from benchmarks.table import Section
from benchmarks.timing import paired
from models import CELLS
from models.drive import Drive
from models.fused import fuse
from study.training.process import prepare_process

SIZES = (50, 64, 100, 128, 200, 256)
N_MEMBERS, LENGTH, N_SEQUENCES, SQUARE = 8, 100, 20, 2048
N_CALLS = 10
"""Calls that are timed as one: the sgemm between two of them has emptied the caches, an update has not."""

CASE_S = 4.0


def kernels() -> Section:
    """GFLOP/s of forward and backward through a sequence, weight gradient included, in one thread."""
    prepare_process()
    rows = [_row(cell, n_hidden) for cell in ("elman_tanh", "gru", "lstm") for n_hidden in SIZES]
    return Section(
        title="Recurrent kernels: a stack of 8, 20 sequences of 100 steps, one thread",
        command="make bench ARGS=kernels",
        columns=("cell", "units", "GFLOP/s", "sgemm, GFLOP/s", "share of sgemm"),
        rows=rows,
        notes="Only the products with recurrent matrices are counted, three of them; sgemm is a product of matrices of "
        f"{SQUARE} x {SQUARE}, timed in turn with the kernel. torch's is MKL's, which leaves vectors of 512 bits "
        "alone on processors that are not Intel's: more than 100 % is what these can do.",
    )


def _row(name: str, n_hidden: int) -> tuple[str, ...]:
    cell = fuse(CELLS[name])
    width = cell.n_gates * n_hidden
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = {key: normal(N_MEMBERS, *shape) / n_hidden**0.5 for key, shape in cell.shapes(n_hidden).items()}
    drive = Drive(parts=(normal(N_MEMBERS, LENGTH, N_SEQUENCES, width),))
    cotangent = normal(N_MEMBERS, 1, N_SEQUENCES, n_hidden)
    square = normal(SQUARE, SQUARE)

    def there_and_back() -> None:
        tape = cell.forward(weights, drive, None)
        cell.gradients(weights, tape, None, cotangent)

    def often() -> None:
        for _ in range(N_CALLS):
            there_and_back()

    kernel_s, sgemm_s = paired(often, lambda: square @ square, CASE_S)
    rate = 6e-9 * N_CALLS * N_MEMBERS * LENGTH * N_SEQUENCES * n_hidden * width / kernel_s
    ceiling = 2e-9 * SQUARE**3 / sgemm_s
    return name, str(n_hidden), f"{rate:.0f}", f"{ceiling:.0f}", f"{100 * rate / ceiling:.0f} %"
