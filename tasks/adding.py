"""Adding: the mean of two marked numbers in a long stream of numbers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from tasks.task import Batch, Task

Criterion = Literal["hochreiter1997", "pascanu2013"]

TOLERANCES: dict[Criterion, float] = {"hochreiter1997": 0.04, "pascanu2013": 0.2}
"""Absolute error from which on a sequence is failed. Pascanu et al. fail a *squared* error above 0.04 = 0.2^2."""


class Adding(Task):
    """Two input lines, a value and a marker; the answer is the mean of the two marked values.

    Values are uniform in [0, 1); the marker is 1 at two steps and 0 at all others. With steps counted from 0 and
    quotients floored, the first mark stands uniformly in ``[0, T/10)``, or at step 0 where that window would be empty,
    and the second uniformly in ``[T/10, T/2)``, from step 1 at the earliest. The target ``(x1 + x2) / 2`` is read at
    the last step. Lines are ``inputs[..., 0]`` value and ``inputs[..., 1]`` marker.

    Hochreiter & Schmidhuber's values u are uniform in [-1, 1] and their target is 0.5 + (u1 + u2) / 4; with
    u = 2 x - 1 that is ``(x1 + x2) / 2`` as here, so that their tolerance means the same on this target.

    Source: Pascanu, Mikolov & Bengio 2013, supplement, addition, and the code released with it; after Hochreiter &
    Schmidhuber 1997, task 4; ``criterion`` names the paper whose rule fails a sequence. Differs: the length is exactly
    T, where both papers draw it from [T, 1.1 T]; the code has the marker on the first line. Task 4 itself has its first
    mark among the first ten steps whatever T, marks its first and last step by -1, and may put the second mark before
    the first.
    """

    name = "adding"
    source = "Hochreiter & Schmidhuber 1997, task 4, as sampled by Pascanu et al. 2013"
    # The least T whose second window [1, T/2) holds a step.
    shortest_length = 4
    symbolic = False
    n_in = 2
    n_out = 1

    def __init__(self, *, criterion: Criterion = "hochreiter1997") -> None:
        """The task with one of the rules of ``TOLERANCES``; raises ValueError for another."""
        if criterion not in TOLERANCES:
            raise ValueError(f"criterion must be one of {', '.join(TOLERANCES)}, but got criterion={criterion!r}")
        self._tolerance = TOLERANCES[criterion]

    def sample(self, generator: Generator, n_sequences: int, length: int) -> Batch:
        """Values ``[T, B, 2]`` and targets ``[1, B, 1]``; raises ValueError if the length is too short."""
        self._require(length)
        device = generator.device
        values = torch.rand((length, n_sequences), generator=generator, device=device)
        windows = ((0, _first_end(length)), (_first_end(length), length // 2))
        positions = torch.stack(
            [torch.randint(*window, (n_sequences,), generator=generator, device=device) for window in windows]
        )
        marks = torch.zeros_like(values).scatter_(0, positions, 1.0)
        means = values.gather(0, positions).mean(0)
        return Batch(inputs=torch.stack((values, marks), dim=-1), targets=means[None, :, None])

    def min_lag(self, length: int) -> int:
        """``T - max(1, T // 10)``: from the latest first mark to the last step."""
        return length - _first_end(length)

    def loss(self, batch: Batch, output: Tensor) -> Tensor:
        """Mean squared error: ``[K]``."""
        return (output - batch.targets).square().mean((-3, -2, -1))

    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """The absolute error is not below the tolerance: bool ``[K, B]``."""
        # Said this way round, a NaN fails.
        return ~((output - batch.targets).abs() < self._tolerance).all(-1).all(-2)

    def chance_error(self) -> float:
        """Share of sequences failed by the best constant, one half: ``(1 - 2 e)^2``, e the tolerance.

        The mean of two uniform numbers has the triangular density ``4 min(m, 1 - m)`` on [0, 1]. It is symmetric and
        falls away from its peak, so that of all intervals of width 2 e the one around 1/2 holds the most; outside it
        lie two tails of ``2 (1/2 - e)^2`` each. By Hochreiter & Schmidhuber's rule this is 0.8464, by Pascanu's 0.36.
        """
        return (1 - 2 * self._tolerance) ** 2

    def oracle(self, batch: Batch) -> Tensor:
        """Half the sum of the marked values: ``[1, B, 1]``."""
        return (batch.inputs.prod(-1).sum(-2) / 2)[..., None, :, None]


def _first_end(length: int) -> int:
    """End (exclusive) of the first mark's window, where the second's begins."""
    return max(1, length // 10)
