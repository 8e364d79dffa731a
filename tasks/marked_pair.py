"""Two marked numbers in a long stream of numbers: what adding and multiplication have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tasks.draw import Draws
from tasks.regression import Regression
from tasks.task import Batch, require_one_of

Variant = Literal["hochreiter1997", "pascanu2013"]
Criterion = Literal["hochreiter1997", "pascanu2013"]

VARIANTS: tuple[Variant, ...] = ("hochreiter1997", "pascanu2013")

TOLERANCES: dict[Criterion, float] = {"hochreiter1997": 0.04, "pascanu2013": 0.2}
"""Absolute error from which on a sequence is failed. Pascanu et al. fail a *squared* error above 0.04 = 0.2^2."""

N_FIRST = 10
"""Number of first steps among which Hochreiter & Schmidhuber's first mark is."""


class MarkedPair(Regression):
    """Two input lines, a value and a marker; the answer is made of the two marked values.

    ``inputs[..., 0]`` is the value, ``inputs[..., 1]`` the marker: 1 at two steps, 0 at all others. Steps count from 0
    and quotients are floored. The answer is read at the last step.

    ``pascanu2013``: the first mark stands uniformly in ``[0, T/10)``, or at step 0 where that window would be empty,
    and the second uniformly in ``[T/10, T/2)``, from step 1 at the earliest. Values are uniform in [0, 1). The output
    is linear.

    ``hochreiter1997``: the first mark stands uniformly among the first ten steps whatever T, the second uniformly among
    the first ``T/2 - 1`` steps that are left, step 0 aside; it may come before the first. The marker of the first step
    and of the last is -1. Where step 0 holds the first mark, in a tenth of the sequences, that mark is thus not seen,
    and the step's value is replaced by one that changes nothing (``neutral``). The output unit is logistic. In
    sequences of fewer than 20 steps, whose first half holds no ten steps, a first mark beyond that half is counted on
    from step 1 again.

    Source: Pascanu, Mikolov & Bengio 2013, supplement, and the code released with it; Hochreiter & Schmidhuber 1997,
    tasks 4 and 5. Differs: the length is exactly T, where both papers draw it from [T, 1.1 T], which is left to the
    training lengths; Pascanu's code has the marker on the first line. In Hochreiter & Schmidhuber's account the second
    mark may also fall on step 0, in fewer than 1 of 50 sequences of 100 steps, but what then becomes of its value is
    said of the first mark only. Sequences of fewer than 20 steps are not defined there.
    """

    neutral: ClassVar[float]
    # The least T whose first half holds a mark besides step 0.
    shortest_length = 4
    symbolic = False
    n_in = 2
    n_out = 1

    def __init__(self, *, variant: Variant = "pascanu2013", criterion: Criterion = "hochreiter1997") -> None:
        """The task as one paper draws it, with the rule of ``TOLERANCES`` of one; raises ValueError for another."""
        require_one_of("variant", variant, VARIANTS)
        require_one_of("criterion", criterion, TOLERANCES)
        self._hochreiter = variant == "hochreiter1997"
        self.logistic = self._hochreiter
        self._tolerance = TOLERANCES[criterion]

    def sample(self, draws: Draws, length: int) -> Batch:
        """Values ``[T, B, 2]`` and targets ``[1, B, 1]``; raises ValueError if the length is too short."""
        self._require(length)
        values = self._values(draws.uniform(length))
        inputs = values.new_zeros((length, draws.n_sequences, self.n_in))
        marks = inputs[..., 1]
        if self._hochreiter:
            positions = _positions_of_hochreiter(draws, length)
            values[0].masked_fill_(positions[0] == 0, self.neutral)
            marks.scatter_(0, positions, 1.0)[:: length - 1] = -1.0
        else:
            positions = _positions_of_pascanu(draws, length)
            marks.scatter_(0, positions, 1.0)
        inputs[..., 0] = values
        return Batch(inputs=inputs, targets=self._answer(values.gather(0, positions))[None, :, None])

    def min_lag(self, length: int) -> int:
        """From the latest first mark that is seen to the last step.

        ``T - max(1, T // 10)`` as Pascanu et al. draw it. As Hochreiter & Schmidhuber do, ``T - T // 2``: step 0 may
        hold one mark, unseen, and step ``T/2 - 1`` the other; with both marks seen it is about T - 10.
        """
        return length - (length // 2 if self._hochreiter else _first_end(length))

    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """The absolute error is not below the tolerance: bool ``[K, B]``."""
        return self._misses(output, batch.targets, self._tolerance)

    def oracle(self, batch: Batch) -> Tensor:
        """The answer that the marked values make: ``[1, B, 1]``."""
        values, marks = batch.inputs.unbind(-1)
        return self._raw(self._answer(values.where(marks == 1, self.neutral)))[..., None, :, None]

    @abstractmethod
    def _values(self, uniform: Tensor) -> Tensor:
        """Values of the stream from numbers that are uniform in [0, 1); may be the same tensor."""

    @abstractmethod
    def _answer(self, numbers: Tensor) -> Tensor:
        """The answer ``[..., B]`` from numbers ``[..., S, B]``, all but the marked ones neutral."""


def _first_end(length: int) -> int:
    """End (exclusive) of the first mark's window in Pascanu's variant, where the second's begins."""
    return max(1, length // 10)


def _positions_of_pascanu(draws: Draws, length: int) -> Tensor:
    """Steps of the first and the second mark: int64 ``[2, B]``."""
    end = _first_end(length)
    return torch.cat((draws.integers(0, end, 1), draws.integers(end, length // 2, 1)))


def _positions_of_hochreiter(draws: Draws, length: int) -> Tensor:
    """Steps of the first and the second mark: int64 ``[2, B]``."""
    half = length // 2
    first = draws.integers(0, N_FIRST)
    if half < N_FIRST:
        first = ((first - 1) % (half - 1) + 1).where(first > 0, 0)
    second = draws.integers(1, half)
    # Counted among the steps that are left; step 0 is no candidate whether it is marked or not.
    second += (second >= first) & (first > 0)
    return torch.stack((first, second))
