"""What the tests of the probe share: small networks on temporal order, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

from models import CELLS, FAST_CELLS
from models.cell import Tape
from models.dropout import Dropout, Keep
from models.network import Network
from study.seeds import stream
from study.training.draw import StreamDraws, keys
from tasks import TASKS, Batch

TASK = TASKS["temporal_order"]()
LENGTH, N_SEQUENCES, N_HIDDEN = 13, 5, 6
RATES = torch.tensor([0.8, 0.6], dtype=torch.float64)
KINDS = [(cell, Dropout.NONE) for cell in CELLS] + [(cell, Dropout.FAST) for cell in FAST_CELLS]
"""Every cell, and every one that can propagate moments."""


def network(cell: str, dropout: Dropout = Dropout.NONE) -> Network:
    cells = FAST_CELLS if dropout is Dropout.FAST else CELLS
    shown = cells[cell].for_length(LENGTH)
    return Network(cell=shown, dropout=dropout, n_in=TASK.n_in, n_hidden=N_HIDDEN, n_out=TASK.n_out)


def keep_of(net: Network) -> Keep | None:
    """The rates of two members under fast dropout."""
    return Keep(inputs=RATES, recurrent=RATES) if net.dropout is Dropout.FAST else None


def init(net: Network, n_members: int = 2, scale: float = 1.0, seed: int = 3) -> dict[str, Tensor]:
    members = [
        net.init(stream(seed, k), init="gaussian", init_scale=scale, input_scale=1.0, forget_bias=1.0)
        for k in range(n_members)
    ]
    return {name: torch.stack([member[name] for member in members]) for name in net.shapes()}


def batch(length: int = LENGTH) -> Batch:
    return TASK.sample(StreamDraws(keys((4,), "probe"), 0, N_SEQUENCES), length)


def tape_of(net: Network, weights: dict[str, Tensor], data: Batch) -> Tape:
    flow = net.flow(weights, data.inputs, keep=keep_of(net), n_read=data.n_read, slope=torch.zeros_like)
    return flow[0]
