"""Indicator series: whether the one predictable value of a random series is due."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.draw import Draws
from tasks.regression import Regression
from tasks.task import Batch

INDICATOR = 1.0

MEAN = 0.5
"""Mean of the values between indicators: the best prediction of what cannot be predicted."""

TOLERANCE = abs(INDICATOR - MEAN) / 2
"""Error from which on an output is no nearer to the right one of the two predictions than to the other."""


class Indicator(Regression):
    """A series of random values in which every T-th is an indicator; what follows a stretch of T values is predicted.

    Values are uniform in [0, 1), the indicator is 1. A sequence is T successive values of the series
    (``inputs[..., 0]``), of which exactly one is the indicator; the target, read at the last step, is the value after
    them. It is the next indicator if the first step is one, and a random value elsewhere. With steps counted from 0 and
    quotients floored, the indicator is at step 0 in half of the sequences and stands uniformly in ``[1, 1 + T/10)``, or
    at step 1 where that window would be empty, in the others. Knowing all inputs, the best predictions are 1 and 1/2. A
    sequence is failed if the output is off that prediction by 1/4 or more, half of the distance between the two: a
    limit that no parameter sets.

    Source: Schaefer, Udluft & Zimmermann 2008: basic recurrent networks, unfolded in time, learn lags of 100 steps;
    only the abstract is known here. Differs: that every T-th of uniform values is deterministic and all between are
    random is from memory, all else is ours: the indicator's value; that it may stand in the first steps only, which
    guarantees the lag; that it is due in half of the sequences instead of one in T, since no network would have to
    remember anything to be right in all but one in T; one prediction per sequence, at its end; the limit on the error,
    which goes for values that cannot be predicted as well, lest a constant 1 be right.
    """

    name = "indicator"
    source = "Schaefer, Udluft & Zimmermann 2008, indicator series"
    # The first window then ends one step before the last.
    shortest_length = 3
    symbolic = False
    noisy = True
    n_in = 1
    n_out = 1

    def sample(self, draws: Draws, length: int) -> Batch:
        """Values ``[T, B, 1]`` and targets ``[1, B, 1]``; raises ValueError if the length is too short."""
        self._require(length)
        values = draws.uniform(length + 1)[..., None]
        due = draws.integers(0, 2, 1)[..., None] > 0
        late = draws.integers(1, 1 + _n_late(length), 1)[..., None]
        values.scatter_(0, late.masked_fill(due, 0), INDICATOR)
        values[length:].masked_fill_(due, INDICATOR)
        return Batch(inputs=values[:length], targets=values[length:])

    def min_lag(self, length: int) -> int:
        """``T - 1 - max(1, T // 10)``: from the latest indicator to the last step."""
        return length - 1 - _n_late(length)

    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """The output is off the best prediction by 1/4 or more: bool ``[K, B]``."""
        return self._misses(output, self.oracle(batch), TOLERANCE)

    def chance_error(self) -> float:
        """Share of sequences failed by the best constant, 1 or 1/2: 0.5, nothing being near enough to both."""
        return 0.5

    def oracle(self, batch: Batch) -> Tensor:
        """The indicator if it is due, else the mean of the other values: ``[1, B, 1]``."""
        return torch.where(batch.inputs[..., :1, :, :] == INDICATOR, INDICATOR, MEAN)


def _n_late(length: int) -> int:
    """Number of steps at which an indicator may stand that is not yet due again."""
    return max(1, length // 10)
