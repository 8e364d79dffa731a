"""Long lag: the first of many symbols comes again as the last, and what lies between is either regular or random."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tasks.classification import Classification
from tasks.draw import Draws
from tasks.readout import CERTAIN, LogisticWithin, certain
from tasks.task import Batch, require_at_least, require_one_of

N_TOLD = 2

Variant = Literal["hochreiter1997_2a", "hochreiter1997_2b"]

RANDOM: dict[Variant, bool] = {"hochreiter1997_2a": False, "hochreiter1997_2b": True}
"""Whether the symbols between the first and the last are random, by variant."""


class LongLag(Classification):
    """Every next symbol is predicted; the first of T + 1, x or y, comes again as the last: only that asks for memory.

    A sequence of T steps is a string of T + 1 symbols, of which the network sees all but the last. With p + 1 symbols
    in all, codes are x, y = 0, 1 and ``a_i`` = 1 + i for i = 1 ... p - 1. Between the first and the last symbol stand
    T - 1 others. In task 2a they count up to ``a_{p-1}``, so that step t carries ``a_{t - T + p}``: at T = p all from
    ``a_1`` on. Longer sequences run through the symbols more than once. In task 2b they are uniform and independent. A
    sequence is failed if any logistic unit at any step (2a) or at the last step (2b) is off by 0.25 or more; the loss
    is half the squared error of the units. ``min_lag`` is that of the last symbol.

    Source: Hochreiter & Schmidhuber 1997, tasks 2a and 2b. Differs: there p is the lag as well, so that an alphabet
    belongs to each length; the number of inputs of a network cannot follow the length, so that p is a parameter here,
    100 if none is given, and task 2a is the paper's at T = p alone: elsewhere it is ours. The paper's errors are summed
    over steps, here they are averaged. Nothing announces the end in task 2b, as in the paper, nor in 2a beyond T = p:
    a network has to count, and cannot where training lengths are mixed; nor can it know there what follows the first
    symbol in 2a.
    """

    name = "long_lag"
    source = "Hochreiter & Schmidhuber 1997, tasks 2a and 2b"
    shortest_length = 2
    symbolic = True
    _readout = LogisticWithin(tolerance=0.25)

    def __init__(self, *, variant: Variant = "hochreiter1997_2a", n_symbols: int = 100) -> None:
        """The task between symbols of ``RANDOM``'s kinds, with p = ``n_symbols``; raises ValueError for others."""
        require_one_of("variant", variant, RANDOM)
        # Two symbols between the first and the last, or nothing would be regular, and nothing random.
        require_at_least("n_symbols", n_symbols, 3)
        self.noisy = RANDOM[variant]
        self._n_between = n_symbols - 1
        self._judged = slice(-1, None) if self.noisy else slice(None)
        self.n_in = self.n_out = N_TOLD + self._n_between

    def sample(self, draws: Draws, length: int) -> Batch:
        """Codes ``[T, B]`` and next symbols ``[T, B]``; raises ValueError if the length is too short."""
        self._require(length)
        first = draws.integers(0, N_TOLD, 1)
        if self.noisy:
            between = draws.integers(N_TOLD, self.n_in, length - 1)
        else:
            steps = torch.arange(1, length)[:, None]
            between = (N_TOLD + (steps - length) % self._n_between).expand(-1, draws.n_sequences)
        codes = torch.cat((first, between, first))
        return Batch(inputs=codes[:-1], targets=codes[1:])

    def min_lag(self, length: int) -> int:
        """``T - 1``: from the first symbol to the last step, where it is predicted."""
        return length - 1

    def chance_error(self) -> float:
        """One of two equally likely symbols, all else being known or not judged: 0.5."""
        return 1 - 1 / N_TOLD

    def oracle(self, batch: Batch) -> Tensor:
        """All certainty on what can be known, every unit at its symbol's probability elsewhere: ``[T, B, p + 1]``."""
        first, between = batch.inputs[..., :1, :], batch.inputs[..., 1:, :]
        if not self.noisy:
            return certain(torch.cat((between, first), dim=-2), self.n_out)
        last = certain(first, self.n_out)
        # The logit of 1 / (p - 1).
        before = last.new_full((*between.shape, self.n_out), -math.log(self._n_between - 1))
        before[..., :N_TOLD] = -CERTAIN
        return torch.cat((before, last), dim=-3)
