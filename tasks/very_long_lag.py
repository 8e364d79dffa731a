"""Very long lag: the second symbol is asked for by a trigger, after random symbols without end."""

from __future__ import annotations

from torch import Tensor

from tasks.classification import Classification
from tasks.draw import Draws
from tasks.readout import LogisticWithin, certain
from tasks.task import Batch, require_at_least

N_TOLD = 2

START, TRIGGER = 2, 3

N_NO_DISTRACTORS = 4


class VeryLongLag(Classification):
    """A start symbol, x or y, random distractors, and a trigger, at which x or y is to be named.

    With p distractors, codes are x, y = 0, 1, start b = 2, trigger e = 3 and distractors 4 ... p + 3, uniform and
    independent. Step 0 carries b, step 1 x or y, the last step e, all between distractors. The answer, x or y, is read
    at the last step off two logistic units; a sequence is failed if either is off by 0.2 or more; the loss is half
    their squared error.

    Source: Hochreiter & Schmidhuber 1997, task 2c. Differs: there q distractors are followed by the trigger with
    probability 1/10 at each step, by another distractor otherwise, so that a sequence has q + 3 steps at least and 10
    more on average; here the length is exactly T, and training lengths spread it. Where all training lengths are the
    same, the trigger's time can be counted. p is q or q / 2 in the paper and a parameter here, 100 if none is given.
    """

    name = "very_long_lag"
    source = "Hochreiter & Schmidhuber 1997, task 2c"
    shortest_length = 3
    symbolic = True
    n_out = N_TOLD
    _readout = LogisticWithin(tolerance=0.2)

    def __init__(self, *, n_distractors: int = 100) -> None:
        """The task with p = ``n_distractors`` distractors; raises ValueError if there are none."""
        require_at_least("n_distractors", n_distractors, 1)
        self.n_in = N_NO_DISTRACTORS + n_distractors

    def sample(self, draws: Draws, length: int) -> Batch:
        """Codes ``[T, B]`` and classes ``[1, B]``; raises ValueError if the length is too short."""
        self._require(length)
        inputs = draws.integers(N_NO_DISTRACTORS, self.n_in, length)
        told = draws.integers(0, N_TOLD, 1)
        inputs[0], inputs[1:2], inputs[-1] = START, told, TRIGGER
        return Batch(inputs=inputs, targets=told)

    def min_lag(self, length: int) -> int:
        """``T - 2``: from step 1 to the last."""
        return length - 2

    def chance_error(self) -> float:
        """One of two equally likely symbols: 0.5."""
        return 1 - 1 / N_TOLD

    def oracle(self, batch: Batch) -> Tensor:
        """All certainty on the symbol of step 1: ``[1, B, 2]``."""
        return certain(batch.inputs[..., 1:2, :], self.n_out)
