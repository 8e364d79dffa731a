"""Multiplication: the product of two marked numbers in a long stream of numbers."""

from __future__ import annotations

import math

from torch import Tensor

from tasks.marked_pair import N_FIRST, MarkedPair


class Multiplication(MarkedPair):
    """The target is the product of the two marked values, which are uniform in [0, 1) in both papers.

    In ``hochreiter1997`` a marked value at step 0 is replaced by 1. Where the marks stand is told by ``MarkedPair``.

    Source: Hochreiter & Schmidhuber 1997, task 5; Pascanu, Mikolov & Bengio 2013, supplement, multiplication, and the
    code released with it. ``variant`` names the paper whose sequences and output unit are used, ``criterion`` the one
    whose rule fails a sequence. Differs: as ``MarkedPair`` says; that the output unit of task 5 is logistic as that of
    task 4 is our reading. Hochreiter & Schmidhuber end training once fewer than 140, or 13, of the last 2000 sequences
    are off by more than 0.04, where here a network is judged as on every task.
    """

    name = "multiplication"
    source = "Hochreiter & Schmidhuber 1997, task 5; Pascanu et al. 2013"
    neutral = 1.0

    def chance_error(self) -> float:
        """Share of sequences failed by the best constant, which is the tolerance e: ``1 - 2 e (1 - ln(2 e))``.

        The product of two uniform numbers has the density ``-ln m`` on (0, 1]. It falls, so that of all intervals of
        width 2 e the one that begins at 0 holds the most: ``P(m < c) = c (1 - ln c)`` at c = 2 e. By Hochreiter &
        Schmidhuber's rule the error is 0.7179, by Pascanu's 0.2335.

        In Hochreiter & Schmidhuber's variant a tenth of the sequences have one marked number only, and their target is
        uniform in [0, 1): the same constant fails ``1 - 2 e`` of them. In all, 0.7381 and 0.2701.
        """
        width = 2 * self._tolerance
        two = 1 - width * (1 - math.log(width))
        return two + (1 - width - two) / N_FIRST if self._hochreiter else two

    def _values(self, uniform: Tensor) -> Tensor:
        return uniform

    def _answer(self, numbers: Tensor) -> Tensor:
        return numbers.prod(-2)
