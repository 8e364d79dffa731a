"""Answers that are numbers: their squared error, and how far off an output may be."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from tasks.expectation import logistic_moments
from tasks.logistic import logistic
from tasks.task import Batch, Task


class Regression(Task):
    """A task that is trained on the mean squared error of its output unit.

    ``loss = loss_scale * mean((f(o) - target)^2)`` over sequences, answers and lines, o the network's raw output and f
    the output unit: the logistic function where ``logistic`` holds, the identity elsewhere. What the papers say of
    outputs they say of f(o); a task's ``failed`` and ``oracle`` therefore go by it too.
    """

    loss_scale: ClassVar[float] = 1.0
    logistic: bool = False

    def loss(self, batch: Batch, output: Tensor) -> Tensor:
        """Scaled mean squared error of the output unit: ``[K]``."""
        return self.loss_scale * (self._unit(output) - batch.targets).square().mean((-3, -2, -1))

    def loss_and_slope(self, batch: Batch, output: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Task.loss_and_slope``, by the closed form ``2 loss_scale (f - target) f' / n``.

        n is the number of a member's sequences, answers and lines; f' is 1, or ``f (1 - f)`` for the logistic unit.
        """
        unit = self._unit(output)
        error = unit - batch.targets
        loss = self.loss_scale * error.square().mean((-3, -2, -1))
        slope = error.mul_(2 * self.loss_scale / error[0].numel())
        return loss, slope * unit * (1 - unit) if self.logistic else slope

    def expected_loss(self, batch: Batch, mean: Tensor, variance: Tensor) -> Tensor:
        """As ``Problem.expected_loss``: ``loss_scale * mean((m - target)^2 + v)``, (m, v) moments of the output unit.

        Source: Wang & Manning 2013, squared loss, exact for these moments. Differs: nothing.
        """
        unit, spread = logistic_moments(mean, variance) if self.logistic else (mean, variance)
        return self.loss_scale * ((unit - batch.targets).square() + spread).mean((-3, -2, -1))

    def _unit(self, output: Tensor) -> Tensor:
        """What the output unit makes of a raw output."""
        return logistic(output) if self.logistic else output

    def _raw(self, answer: Tensor) -> Tensor:
        """The raw output that the output unit turns into an answer."""
        return answer.logit() if self.logistic else answer

    def _misses(self, output: Tensor, answers: Tensor, tolerance: float) -> Tensor:
        """Whether any of a sequence's outputs is off its answer by the tolerance or more: bool ``[K, B]``."""
        # Said this way round, a NaN fails.
        return ~((self._unit(output) - answers).abs() < tolerance).all(-1).all(-2)


class Bit(Regression):
    """A task whose one answer is a bit, told by a number's sign: targets are -0.8 and +0.8, equally likely.

    The loss is half the mean squared error.

    Source: Bengio, Simard & Frasconi 1994, minimal latch task; known from others' accounts of that paper. Differs: the
    loss there is the sum over patterns and that of a tanh unit itself, here the mean and of a linear readout. The rule
    that fails a sequence, a wrong sign, is ours: the accounts give none.
    """

    TARGET: ClassVar[float] = 0.8

    loss_scale = 0.5
    n_out = 1

    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """The output has not the target's sign: bool ``[K, B]``."""
        # Said this way round, a NaN fails, as does 0.
        return ~(output * batch.targets > 0).all(-1).all(-2)

    def chance_error(self) -> float:
        """One of two equally likely classes: 0.5."""
        return 0.5

    def oracle(self, batch: Batch) -> Tensor:
        """The target of the bit that the inputs tell: ``[1, B, 1]``."""
        return self.TARGET * self._sign(batch.inputs)

    @abstractmethod
    def _sign(self, inputs: Tensor) -> Tensor:
        """Sign of the answer, from the inputs ``[T, B, n_in]`` alone: -1 or 1, ``[1, B, 1]``."""
