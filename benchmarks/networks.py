"""One update of one network as a user would write it: torch's modules, or a Python loop over a cell, and autograd."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from models import FAST_CELLS
from study.plan import TaskPlan
from study.training.draw import StreamDraws, keys
from tasks import TASKS, Task

MODULES: dict[str, Callable[..., nn.Module]] = {"elman_tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
"""torch's module for a cell; ``nn.RNN`` also does rectifiers."""

LOOPED: dict[str, Callable[..., nn.Module]] = {"elman_tanh": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
"""torch's single step of a cell."""

P_KEEP = 0.8
"""Fast dropout's probability of keeping a unit in these measurements."""


class Classifier(nn.Module):
    """A recurrent network that answers at its last step."""

    def __init__(self, recurrence: nn.Module, n_hidden: int, n_out: int) -> None:
        """Around a module from ``[T, B, n_in]`` to the last state ``[B, n_hidden]``."""
        super().__init__()
        self.recurrence = recurrence
        self.readout = nn.Linear(n_hidden, n_out)

    def forward(self, inputs: Tensor) -> Tensor:
        """Net outputs ``[B, n_out]``."""
        logits: Tensor = self.readout(self.recurrence(inputs))
        return logits


class Sequence(nn.Module):
    """The last state of one of torch's modules."""

    def __init__(self, cell: str, n_in: int, n_hidden: int) -> None:
        """The module that ``MODULES`` names for the cell; ``elman_rectifier`` is ``nn.RNN`` as well."""
        super().__init__()
        options = {"nonlinearity": "relu"} if cell == "elman_rectifier" else {}
        self.module = MODULES.get(cell, nn.RNN)(n_in, n_hidden, **options)

    def forward(self, inputs: Tensor) -> Tensor:
        """The last state."""
        states: Tensor = self.module(inputs)[0]
        return states[-1]


class Loop(nn.Module):
    """The last state of a Python loop over one of torch's cells."""

    def __init__(self, cell: str, n_in: int, n_hidden: int) -> None:
        """The cell that ``LOOPED`` names."""
        super().__init__()
        self.cell = LOOPED[cell](n_in, n_hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        """The last state."""
        state: Any = None
        for row in inputs:
            state = self.cell(row, state)
        return state[0] if isinstance(state, tuple) else state


class FastLoop(nn.Module):
    """The last mean of a Python loop over fast dropout's step, a stack of one."""

    def __init__(self, cell: str, n_in: int, n_hidden: int) -> None:
        """The cell of ``FAST_CELLS`` of this name."""
        super().__init__()
        self.cell = FAST_CELLS[cell]
        self.input = nn.Parameter(torch.randn(n_in, n_hidden) / n_in**0.5)
        self.bias = nn.Parameter(torch.zeros(n_hidden))
        self.recurrent = nn.Parameter(torch.randn(1, n_hidden, n_hidden) / n_hidden**0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """The last mean."""
        mean = P_KEEP * inputs @ self.input + self.bias
        variance = P_KEEP * (1 - P_KEEP) * inputs.square() @ self.input.square()
        mask = torch.full((1, 1, 1), P_KEEP)
        weights = {"recurrent": self.recurrent}
        state = self.cell.start(mean[None, 0])
        for t in range(len(inputs)):
            state = self.cell.step(weights, state, (mean[None, t], variance[None, t]), mask)
        return state[0][0]


def update_of(
    recurrence: nn.Module, task: Task, n_hidden: int, n_sequences: int, length: int, *, device: str = "cpu"
) -> Callable[[], None]:
    """One update of a network: fresh sequences, forward, backward, clipping, gradient descent."""
    network = Classifier(recurrence, n_hidden, task.n_out).to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    stream, updates = keys((1,), "batch"), count()

    def update() -> None:
        batch = task.sample(StreamDraws(stream, next(updates), n_sequences), length).to(device)
        optimiser.zero_grad()
        loss = cross_entropy(network(one_hot(batch.inputs, task.n_in).float()), batch.targets[0])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    return update


def temporal_order() -> tuple[TaskPlan, Task]:
    """The task of all measurements."""
    plan = TaskPlan(name="temporal_order")
    return plan, TASKS[plan.name]()
