"""Parity: whether the number of minus signs in a sequence is even, with every one of its steps needed."""

from __future__ import annotations

from torch import Tensor

from tasks.draw import Draws
from tasks.regression import Bit
from tasks.task import Batch


class Parity(Bit):
    """Every step is +1 or -1, equally likely; the answer, read at the last step, is the sign of their product.

    The only line is ``inputs[..., 0]``; the target is +0.8 where -1 occurs an even number of times, -0.8 elsewhere.
    Each step turns the answer over by itself, the first included, so that the lag is the longest a sequence can have.

    Source: Bengio, Simard & Frasconi 1994, section VI, parity of T random inputs of +-1. Differs: the definition is all
    that is known here of the paper's task, and that from memory; the targets, the loss and the rule that fails a
    sequence are those of our latch.
    """

    name = "parity"
    source = "Bengio, Simard & Frasconi 1994, parity problem"
    shortest_length = 2
    symbolic = False
    n_in = 1

    def sample(self, draws: Draws, length: int) -> Batch:
        """Values ``[T, B, 1]`` and targets ``[1, B, 1]``; raises ValueError if the length is too short."""
        self._require(length)
        inputs = 2.0 * draws.integers(0, 2, length)[..., None] - 1.0
        return Batch(inputs=inputs, targets=self.TARGET * self._sign(inputs))

    def min_lag(self, length: int) -> int:
        """``T - 1``: from the first step to the last."""
        return length - 1

    def _sign(self, inputs: Tensor) -> Tensor:
        return inputs.prod(-3, keepdim=True)
