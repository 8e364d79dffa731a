"""Temporal order: which of two symbols came first, and which second, long ago."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, one_hot

from tasks.task import Batch, Task, require_one_of

N_RELEVANT, N_DISTRACTORS = 2, 4

Window = Literal["pascanu2013_code", "pascanu2013_text"]

SECOND_WINDOWS: dict[Window, int] = {"pascanu2013_code": 5, "pascanu2013_text": 4}
"""Start of the second symbol's window, in tenths of the length, by variant; each window is a tenth long."""

CERTAIN = 100.0
"""The oracle's net output for the right class, beside 0 for the others: their probability then rounds to 0."""


class TemporalOrder(Task):
    """Two relevant symbols, each A or B, in a stream of distractors; the answer is their pair, one of four classes.

    With steps counted from 0 and quotients floored, the first stands uniformly in ``[T/10, 2T/10)`` and the second in
    ``[5T/10, 6T/10)``, or in ``[4T/10, 5T/10)`` in the variant ``pascanu2013_text``; a window that would be empty holds
    one step. All other steps carry one of the four distractors, uniformly. Codes are A, B = 0, 1 and
    c, d, e, f = 2 ... 5; the class, ``2 * first + second``, is read at the last step. The first symbol must be
    held for at least 0.8 T steps, which sequences of fewer than 5 steps could not ask for.

    Source: Pascanu, Mikolov & Bengio 2013, supplement 3.1, and the code released with it; after Hochreiter &
    Schmidhuber 1997, task 6a. Differs: the paper's text and its code name different second windows, hence the variant;
    the code numbers the classes ``first + 2 * second``; at a length that is no multiple of ten a window may be a step
    longer than in the code, where every window is T/10 steps, rounded down. Task 6a itself also has a start and an end
    symbol and draws its lengths from 100 to 110.
    """

    name = "temporal_order"
    source = "Hochreiter & Schmidhuber 1997, task 6a, as sampled by Pascanu et al. 2013"
    shortest_length = 5
    symbolic = True
    n_in = N_RELEVANT + N_DISTRACTORS
    n_out = N_RELEVANT**2

    def __init__(self, *, window: Window = "pascanu2013_code") -> None:
        """The task with one of the second windows of ``SECOND_WINDOWS``; raises ValueError for another."""
        require_one_of("window", window, SECOND_WINDOWS)
        self._second = SECOND_WINDOWS[window]

    def sample(self, generator: Generator, n_sequences: int, length: int) -> Batch:
        """Codes ``[T, B]`` and classes ``[1, B]``; raises ValueError if the length is too short."""
        self._require(length)

        def integers(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator, device=generator.device)

        inputs = integers(N_RELEVANT, self.n_in, length, n_sequences)
        symbols = integers(0, N_RELEVANT, 2, n_sequences)
        positions = torch.stack([integers(*_window(length, tenth), n_sequences) for tenth in (1, self._second)])
        inputs.scatter_(0, positions, symbols)
        return Batch(inputs=inputs, targets=symbols[:1] * N_RELEVANT + symbols[1:])

    def min_lag(self, length: int) -> int:
        """``T - hi``, hi the end (exclusive) of the first window: from the latest first symbol to the last step."""
        return length - _window(length, 1)[1]

    def loss(self, batch: Batch, output: Tensor) -> Tensor:
        """Cross entropy of the class, in nats per sequence: ``[K]``."""
        n_members = output.shape[0]
        targets = batch.targets.expand(n_members, *batch.targets.shape[-2:])
        losses = cross_entropy(output.flatten(0, 2), targets.flatten(), reduction="none")
        return losses.view(n_members, -1).mean(1)

    def loss_and_slope(self, batch: Batch, output: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Task.loss_and_slope``, by the closed form ``softmax(output) - one-hot target``."""
        targets = batch.targets.expand(output.shape[:-1]).unsqueeze(-1)
        log_p = output.log_softmax(-1)
        loss = -log_p.gather(-1, targets).mean((1, 2, 3))
        slope = log_p.exp_().scatter_add_(-1, targets, -torch.ones_like(targets, dtype=output.dtype))
        return loss, slope.div_(targets[0].numel())

    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """The class is not the one with the largest output: bool ``[K, B]``."""
        # argmax takes a NaN for the largest number, and could so hit the class.
        return ((output.argmax(-1) != batch.targets) | output.isnan().any(-1)).any(-2)

    def chance_error(self) -> float:
        """Three of four equally likely classes: 0.75."""
        return 1 - 1 / self.n_out

    def oracle(self, batch: Batch) -> Tensor:
        """All certainty on the class that the two relevant symbols make: ``[1, B, 4]``."""
        relevant = batch.inputs < N_RELEVANT
        order = relevant.cumsum(-2)
        first, second = ((((order == k) & relevant) * batch.inputs).sum(-2) for k in (1, 2))
        return CERTAIN * one_hot(first * N_RELEVANT + second, self.n_out).float().unsqueeze(-3)


def _window(length: int, tenth: int) -> tuple[int, int]:
    """First step and end (exclusive) of the window that starts at so many tenths of the length."""
    low = tenth * length // 10
    return low, max(low + 1, (tenth + 1) * length // 10)
