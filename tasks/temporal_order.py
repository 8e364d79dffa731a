"""Temporal order: which of two symbols came first, and which second, long ago."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, one_hot

from tasks.task import Batch, Task

N_RELEVANT, N_DISTRACTORS = 2, 4

SECOND_WINDOWS = {"pascanu2013_code": 5, "pascanu2013_text": 4}
"""Start of the second symbol's window, in tenths of the length, by variant; each window is a tenth long."""


class TemporalOrder(Task):
    """Two relevant symbols, each A or B, in a stream of distractors; the answer is their pair, one of four classes.

    The first stands uniformly in [T/10, 2T/10), the second in [5T/10, 6T/10), or in [4T/10, 5T/10) in the variant
    ``pascanu2013_text`` (floored; a window that would be empty holds one step). Codes are A, B = 0, 1 and c, d, e, f =
    2 ... 5; the class is twice the first plus the second.

    Source: Hochreiter & Schmidhuber 1997, task 6a; Pascanu, Mikolov & Bengio 2013, supplement 3.1. Differs: nothing
    from Pascanu's; the text of that paper and its code name different second windows, hence the variant.
    """

    name = "temporal_order"
    source = "Hochreiter & Schmidhuber 1997, task 6a, as sampled by Pascanu et al. 2013"
    shortest_length = 5
    symbolic = True

    def __init__(self, *, window: str = "pascanu2013_code") -> None:
        """The task in one of the variants of ``SECOND_WINDOWS``; raises ValueError for another."""
        if window not in SECOND_WINDOWS:
            raise ValueError(f"window must be one of {', '.join(SECOND_WINDOWS)}, but got {window!r}")
        self.window = window
        self.n_in = N_RELEVANT + N_DISTRACTORS
        self.n_out = N_RELEVANT**2

    def sample(self, generator: Generator, n_sequences: int, length: int) -> Batch:
        """Codes ``[T, B]`` and classes ``[1, B]``; raises ValueError if the length is too short."""
        if length < self.shortest_length:
            raise ValueError(f"length >= {self.shortest_length} must hold, but got length={length}")
        device = generator.device

        def integers(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator, device=device)

        inputs = integers(N_RELEVANT, self.n_in, length, n_sequences)
        symbols = integers(0, N_RELEVANT, 2, n_sequences)
        positions = torch.stack(
            [integers(*window, n_sequences) for window in (_window(length, 1), self._second(length))]
        )
        inputs.scatter_(0, positions, symbols)
        return Batch(inputs=inputs, targets=symbols[:1] * N_RELEVANT + symbols[1:])

    def min_lag(self, length: int) -> int:
        """From the latest first symbol to the answer at the end: ``T - hi``, hi the end of the first window."""
        return length - _window(length, 1)[1]

    def loss(self, batch: Batch, output: Tensor) -> Tensor:
        """Cross entropy, nats per sequence."""
        n_members = output.shape[0]
        targets = batch.targets.expand(n_members, *batch.targets.shape[-2:])
        losses = cross_entropy(output.flatten(0, 2), targets.flatten(), reduction="none")
        return losses.view(n_members, -1).mean(1)

    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """The most active output is not the class."""
        # argmax takes a NaN for the largest number, and could so hit the class.
        return ((output.argmax(-1) != batch.targets) | output.isnan().any(-1)).any(-2)

    def chance_error(self) -> float:
        """Three of four equally likely classes."""
        return 1 - 1 / self.n_out

    def oracle(self, batch: Batch) -> Tensor:
        """The class read off the two relevant symbols, one-hot."""
        relevant = batch.inputs < N_RELEVANT
        order = relevant.cumsum(0)
        first, second = (((order == k) & relevant) * batch.inputs for k in (1, 2))
        classes = first.sum(0) * N_RELEVANT + second.sum(0)
        return one_hot(classes, self.n_out).float().unsqueeze(0)

    def _second(self, length: int) -> tuple[int, int]:
        return _window(length, SECOND_WINDOWS[self.window])


def _window(length: int, tenth: int) -> tuple[int, int]:
    """First step and end of the window that starts at so many tenths of the length."""
    low = tenth * length // 10
    return low, max(low + 1, (tenth + 1) * length // 10)
