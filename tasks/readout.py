"""What a network's raw outputs say of a choice among classes: the loss, and which answers are wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from tasks.expectation import expected_cross_entropy, logistic_moments
from tasks.logistic import logistic

CERTAIN = 100.0
"""Raw output for the right class, and minus that for the others: 1 and 0 after softmax or logistic, in float32."""


class Readout(ABC):
    """One way to read classes off raw outputs ``[K, R, B, n_out]``; targets are classes ``[R, B]``, K before or not.

    What papers say of squashed outputs is said of the squashed raw ones.
    """

    @abstractmethod
    def loss(self, targets: Tensor, output: Tensor) -> Tensor:
        """Loss of each member, averaged over sequences and answers: ``[K]``."""

    @abstractmethod
    def loss_and_slope(self, targets: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The loss ``[K]``, and the gradient of its sum over members by ``output``, of the output's shape."""

    @abstractmethod
    def expected_loss(self, targets: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """The loss ``[K]`` on average over Gaussian outputs, see ``Problem.expected_loss``."""

    @abstractmethod
    def wrong(self, targets: Tensor, output: Tensor) -> Tensor:
        """Which answers are wrong, bool ``[K, R, B]``; what a NaN counts as is left open."""


class Softmax(Readout):
    """Class probabilities ``softmax(o)``: the loss is their cross entropy; wrong is another class as the likeliest."""

    def loss(self, targets: Tensor, output: Tensor) -> Tensor:
        """Cross entropy in nats per answer: ``[K]``."""
        targets = targets.expand(output.shape[:-1])
        losses = cross_entropy(output.flatten(0, 2), targets.flatten(), reduction="none")
        return losses.view(output.shape[0], -1).mean(1)

    def loss_and_slope(self, targets: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """By the closed form ``(softmax(o) - one-hot target) / n``, n the number of a member's answers."""
        targets = targets.expand(output.shape[:-1]).unsqueeze(-1)
        n_answers = output.shape[1] * output.shape[2]
        log_p = output.log_softmax(-1)
        loss = log_p.gather(-1, targets).sum((1, 2, 3)).div_(-n_answers)
        return loss, log_p.exp_().scatter_(-1, targets, -1.0, reduce="add").div_(n_answers)

    def expected_loss(self, targets: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Expected cross entropy in nats per answer: ``[K]``."""
        return expected_cross_entropy(mean, variance, targets.expand(mean.shape[:-1])).mean((-2, -1))

    def wrong(self, targets: Tensor, output: Tensor) -> Tensor:
        """The class is not the one with the largest output: bool ``[K, R, B]``."""
        return output.argmax(-1) != targets


class Logistic(Readout):
    """One logistic unit ``f(o) = 1 / (1 + e^-o)`` per class, 1 for the right one and 0 for the others.

    Targets may also be values for the units, ``[R, B, n_out]``, K before or not.
    """

    def loss(self, targets: Tensor, output: Tensor) -> Tensor:
        """Half the squared error, summed over the units of an answer: ``[K]``."""
        return (logistic(output) - _units(targets, output)).square().sum(-1).mean((-2, -1)) / 2

    def loss_and_slope(self, targets: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """By the closed form ``(f - target) f (1 - f) / n``, n the number of a member's answers."""
        unit = logistic(output)
        error = unit - _units(targets, output)
        n_answers = output.shape[1] * output.shape[2]
        # A norm needs no second array of the errors' size.
        loss = error.flatten(1).norm(dim=1).square() / (2 * n_answers)
        return loss, error.mul_(unit).mul_(unit.neg_().add_(1)).div_(n_answers)

    def expected_loss(self, targets: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Half of ``(m - target)^2 + v``, summed over the units of an answer, whose moments m and v are: ``[K]``."""
        unit, spread = logistic_moments(mean, variance)
        return ((unit - _units(targets, mean)).square() + spread).sum(-1).mean((-2, -1)) / 2


class LogisticWithin(Logistic):
    """Wrong is an answer of which any unit is off its target by ``tolerance`` or more."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance

    def wrong(self, targets: Tensor, output: Tensor) -> Tensor:
        """Any unit's absolute error is not below the tolerance: bool ``[K, R, B]``."""
        return ~((logistic(output) - _units(targets, output)).abs() < self._tolerance).all(-1)


class LogisticRanked(Logistic):
    """Wrong is an answer in which the classes with positive targets are not the most active ones."""

    def wrong(self, targets: Tensor, output: Tensor) -> Tensor:
        """Not every output with a positive target is above all others: bool ``[K, R, B]``."""
        legal = _units(targets, output) > 0
        least = output.masked_fill(~legal, torch.inf).amin(-1)
        return ~(least > output.masked_fill(legal, -torch.inf).amax(-1))


def certain(classes: Tensor, n_out: int) -> Tensor:
    """Raw outputs that are certain of the classes by every readout: float32, an axis of ``n_out`` behind the others."""
    return CERTAIN * (2.0 * one_hot(classes, n_out) - 1.0)


def _units(targets: Tensor, output: Tensor) -> Tensor:
    """What each logistic unit should say, in the output's precision."""
    if targets.is_floating_point():
        return targets
    return one_hot(targets, output.shape[-1]).to(output.dtype)
