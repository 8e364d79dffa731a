"""Adding: the mean of two marked numbers in a long stream of numbers."""

from __future__ import annotations

from torch import Tensor

from tasks.marked_pair import N_FIRST, MarkedPair


class Adding(MarkedPair):
    """The target is the mean of the two marked values, or half of that mean plus one half where values may be negative.

    ``pascanu2013``: ``(x1 + x2) / 2``, values uniform in [0, 1). ``hochreiter1997``: ``0.5 + (x1 + x2) / 4``, values
    uniform in [-1, 1), a marked value at step 0 replaced by 0. With x = 2 x' - 1 the latter is ``(x1' + x2') / 2``, so
    that one tolerance means the same in both. Where the marks stand is told by ``MarkedPair``.

    Source: Hochreiter & Schmidhuber 1997, task 4; Pascanu, Mikolov & Bengio 2013, supplement, addition, and the code
    released with it. ``variant`` names the paper whose sequences, target and output unit are used, ``criterion`` the
    one whose rule fails a sequence. Differs: as ``MarkedPair`` says.
    """

    name = "adding"
    source = "Hochreiter & Schmidhuber 1997, task 4; Pascanu et al. 2013"
    neutral = 0.0

    def chance_error(self) -> float:
        """Share of sequences failed by the best constant, one half: ``(1 - 2 e)^2``, e the tolerance.

        The mean of two uniform numbers has the triangular density ``4 min(m, 1 - m)`` on [0, 1]. It is symmetric and
        falls away from its peak, so that of all intervals of width 2 e the one around 1/2 holds the most; outside it
        lie two tails of ``2 (1/2 - e)^2`` each. By Hochreiter & Schmidhuber's rule this is 0.8464, by Pascanu's 0.36.

        In Hochreiter & Schmidhuber's variant a tenth of the sequences have one marked number only, and their target is
        uniform in [1/4, 3/4]: one half is still the best, and of those it fails ``1 - 4 e``. In all, 0.84576 and 0.344.
        """
        two = (1 - 2 * self._tolerance) ** 2
        return two + (1 - 4 * self._tolerance - two) / N_FIRST if self._hochreiter else two

    def _values(self, uniform: Tensor) -> Tensor:
        return uniform.mul_(2).sub_(1) if self._hochreiter else uniform

    def _answer(self, numbers: Tensor) -> Tensor:
        total = numbers.sum(-2)
        return total / 4 + 0.5 if self._hochreiter else total / 2
