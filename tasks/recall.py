"""Recall: a string of symbols, a long blank, a sign to begin, and the string again, symbol by symbol."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.classification import Classification
from tasks.draw import Draws
from tasks.readout import Softmax, certain
from tasks.task import Batch


class Recall(Classification):
    """N symbols at the first N steps are to be said again, in order, at the last N; at all others the answer is blank.

    With V kinds of symbols the codes are symbols 0 ... V - 1, blank V and the go sign V + 1; blanks fill every step but
    the first N and the one of the go sign, ``n_after`` steps of which follow it. Symbols are independent and uniform.
    Answers are classes, symbols and blank, read at all T steps, by softmax and cross entropy per step; a sequence is
    failed if any of the T answers is wrong.
    """

    symbolic = True
    n_items: int
    n_values: int
    n_after: int
    _readout = Softmax()

    def sample(self, draws: Draws, length: int) -> Batch:
        """Codes ``[T, B]`` and classes ``[T, B]``; raises ValueError if the length is too short."""
        self._require(length)
        items = draws.integers(0, self.n_values, self.n_items)
        inputs = self._answers(items, length).roll(self.n_items, dims=0)
        inputs[length - 1 - self.n_after] = self.n_values + 1
        return Batch(inputs=inputs, targets=self._answers(items, length))

    def min_lag(self, length: int) -> int:
        """``T - N``: from each symbol to its recall."""
        return length - self.n_items

    def chance_error(self) -> float:
        """All but one of ``V^N`` equally likely strings."""
        return 1 - float(self.n_values) ** -self.n_items

    def oracle(self, batch: Batch) -> Tensor:
        """All certainty on blank, and on the first N symbols at the last N steps: ``[T, B, V + 1]``."""
        items = batch.inputs[..., : self.n_items, :]
        return certain(self._answers(items, batch.inputs.shape[-2]), self.n_out)

    def _answers(self, items: Tensor, length: int) -> Tensor:
        """The right class at every step, from the items ``[..., N, B]``: ``[..., T, B]``."""
        n_sequences = items.shape[-1]
        blanks = items.new_full((*items.shape[:-2], length - self.n_items, n_sequences), self.n_values)
        return torch.cat((blanks, items), dim=-2)
