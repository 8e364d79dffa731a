"""What tests of whole networks share: small networks of every cell, and what goes into them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from models import CELLS
from models.cell import Cell
from models.dropout import Dropout, Keep, Noise
from models.network import Network

assert_close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
"""Two orders of summation in float64: 1e-16 per operation, a few thousand of them."""

N_MEMBERS, LENGTH, N_SEQUENCES, N_IN, N_HIDDEN, N_OUT, N_READ = 3, 8, 4, 5, 6, 2, 3

every_input = pytest.mark.parametrize("coded", [True, False], ids=["codes", "values"])
every_batch = pytest.mark.parametrize("own", [True, False], ids=["own", "shared"])


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def network(cell: Cell, dropout: Dropout = Dropout.NONE) -> Network:
    return Network(cell=cell.for_length(LENGTH), dropout=dropout, n_in=N_IN, n_hidden=N_HIDDEN, n_out=N_OUT)


def draw_weights(shape: Network) -> dict[str, Tensor]:
    return {
        name: (0.6 * normal(N_MEMBERS, *size, seed=seed)).requires_grad_()
        for seed, (name, size) in enumerate(shape.shapes().items())
    }


def draw_inputs(coded: bool, own: bool) -> Tensor:
    sizes = (N_MEMBERS, LENGTH, N_SEQUENCES) if own else (LENGTH, N_SEQUENCES)
    return torch.randint(N_IN, sizes, generator=seeded(20)) if coded else normal(*sizes, N_IN, seed=21)


def draw_noise(coded: bool, own: bool) -> Noise:
    sizes = (N_MEMBERS, LENGTH, N_SEQUENCES) if own else (LENGTH, N_SEQUENCES)
    return Noise(
        inputs=torch.rand(*sizes, 1 if coded else N_IN, generator=seeded(22), dtype=torch.float64),
        recurrent=torch.rand(*sizes, N_HIDDEN, generator=seeded(23), dtype=torch.float64),
    )


def keep(inputs: float, recurrent: float, n_members: int = N_MEMBERS) -> Keep:
    return Keep(
        inputs=torch.full((n_members,), inputs, dtype=torch.float64),
        recurrent=torch.full((n_members,), recurrent, dtype=torch.float64),
    )


def linear_weights() -> dict[str, Tensor]:
    """One member whose rectifiers are always on and read one by one: the network is linear and shows its net inputs."""
    return {
        "input": normal(1, N_IN, N_HIDDEN, seed=0),
        "bias": torch.full((1, N_HIDDEN), 100, dtype=torch.float64),
        "recurrent": normal(1, N_HIDDEN, N_HIDDEN, seed=1) / 50,
        "readout": torch.eye(N_HIDDEN, dtype=torch.float64)[None],
        "readout_bias": torch.zeros(1, N_HIDDEN, dtype=torch.float64),
    }


def linear_network(dropout: Dropout) -> Network:
    return Network(cell=CELLS["elman_rectifier"], dropout=dropout, n_in=N_IN, n_hidden=N_HIDDEN, n_out=N_HIDDEN)
