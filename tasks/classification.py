"""Answers that are classes: tasks which leave their loss and their rule for failing to a readout."""

from __future__ import annotations

from torch import Tensor

from tasks.readout import Readout
from tasks.task import Batch, Task


class Classification(Task):
    """A task each of whose answers is one of ``n_out`` classes, or says which of them may be right.

    ``_readout`` says how classes are read off the network; ``_judged``, which of the R answers decide whether a
    sequence is failed.
    """

    _readout: Readout
    _judged: slice = slice(None)

    def loss(self, batch: Batch, output: Tensor) -> Tensor:
        """The readout's loss: ``[K]``."""
        return self._readout.loss(batch.targets, output)

    def loss_and_slope(self, batch: Batch, output: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Task.loss_and_slope``, by the readout's closed form."""
        return self._readout.loss_and_slope(batch.targets, output)

    def expected_loss(self, batch: Batch, mean: Tensor, variance: Tensor) -> Tensor:
        """As ``Problem.expected_loss``, the readout's."""
        return self._readout.expected_loss(batch.targets, mean, variance)

    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """Any of the judged answers is wrong: bool ``[K, B]``."""
        wrong = self._readout.wrong(batch.targets[..., self._judged, :], output[:, self._judged])
        # argmax takes a NaN for the largest number, and could so hit the class.
        return wrong.any(-2) | output.isnan().any(-1).any(-2)
