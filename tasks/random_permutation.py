"""Random permutation: a stream of symbols in which only the last can be predicted, from the first."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tasks.classification import Classification
from tasks.draw import Draws
from tasks.readout import CERTAIN, Softmax, certain
from tasks.task import Batch, require_one_of

N_TOLD, N_DISTRACTORS = 2, 98

Variant = Literal["pascanu2013_code", "pascanu2013_text"]

READ_ALL: dict[Variant, bool] = {"pascanu2013_code": False, "pascanu2013_text": True}
"""Whether every next symbol is predicted, or only the last, by variant."""


class RandomPermutation(Classification):
    """The next of 100 symbols is predicted; the first of T + 1, one of two, comes again as the last, others are random.

    A sequence of T steps is a string of T + 1 symbols, of which the network sees all but the last. Codes are 0, 1 for
    the first and last symbol and 2 ... 99, uniform and independent, for those between. In the variant
    ``pascanu2013_text`` the next symbol is predicted at all T steps, in ``pascanu2013_code`` at the last step only. A
    sequence is failed if the prediction at the last step, the one that asks for memory, is wrong; ``min_lag`` is that
    of this prediction.

    Source: Pascanu, Mikolov & Bengio 2013, supplement, random permutation, and the code released with it; after
    Martens & Sutskever 2011. Differs: the paper predicts at every step and its code at the last, hence two variants.
    Nothing announces the last symbol, so that a network which predicts at every step has to count, and cannot where
    training lengths are mixed. Although the paper speaks of a permutation, symbols may repeat, as in the code.
    """

    name = "random_permutation"
    source = "Pascanu et al. 2013, random permutation"
    shortest_length = 2
    symbolic = True
    n_in = N_TOLD + N_DISTRACTORS
    n_out = N_TOLD + N_DISTRACTORS
    _readout = Softmax()
    _judged = slice(-1, None)

    def __init__(self, *, variant: Variant = "pascanu2013_code") -> None:
        """The task with one of the readings of ``READ_ALL``; raises ValueError for another."""
        require_one_of("variant", variant, READ_ALL)
        self._read_all = READ_ALL[variant]
        self.noisy = self._read_all

    def sample(self, draws: Draws, length: int) -> Batch:
        """Codes ``[T, B]`` and next symbols ``[T, B]`` or ``[1, B]``; raises ValueError if the length is too short."""
        self._require(length)
        codes = draws.integers(N_TOLD, self.n_in, length + 1)
        codes[0] = codes[-1] = draws.integers(0, N_TOLD)
        return Batch(inputs=codes[:-1], targets=codes[1:] if self._read_all else codes[-1:])

    def min_lag(self, length: int) -> int:
        """``T - 1``: from the first symbol to the last step, where it is predicted."""
        return length - 1

    def chance_error(self) -> float:
        """One of two equally likely symbols: 0.5."""
        return 1 - 1 / N_TOLD

    def oracle(self, batch: Batch) -> Tensor:
        """All certainty on the first symbol, at the last step; before it, every distractor alike: ``[R, B, 100]``."""
        last = certain(batch.inputs[..., :1, :], self.n_out)
        if not self._read_all:
            return last
        before = last.new_zeros((*batch.inputs.shape, self.n_out))[..., 1:, :, :]
        before[..., :N_TOLD] = -CERTAIN
        return torch.cat((before, last), dim=-3)
