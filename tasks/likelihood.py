"""Negative log-likelihoods of single answers, and their gradients; answers that are not asked count nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.expectation import expected_cross_entropy, expected_softplus
from tasks.logistic import logistic


def class_losses(output: Tensor, targets: Tensor) -> Tensor:
    """``-ln softmax(y)_c``, in nats; 0 where the class is negative.

    Args:
        output: y, ``[K, R, B, n_out]``.
        targets: classes c, ``[R, B]`` or ``[K, R, B]``.

    Returns:
        ``[K, R, B]``, differentiable in ``output``.

    Source: the definition of a categorical likelihood. Differs: nothing.
    """
    classes = targets.expand(output.shape[:-1])
    picked = output.log_softmax(-1).gather(-1, classes.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(classes >= 0, -picked, 0)


def class_slopes(output: Tensor, targets: Tensor) -> Tensor:
    """Gradient of ``class_losses`` by each output: ``softmax(y) - one-hot c``, ``[K, R, B, n_out]``."""
    classes = targets.expand(output.shape[:-1]).unsqueeze(-1)
    slopes = output.softmax(-1)
    slopes.scatter_add_(-1, classes.clamp(min=0), -torch.ones_like(classes, dtype=output.dtype))
    return slopes.masked_fill_(classes < 0, 0)


def class_expected(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    """``class_losses`` on average over Gaussian outputs: ``[K, R, B]``."""
    classes = targets.expand(mean.shape[:-1])
    return torch.where(classes >= 0, expected_cross_entropy(mean, variance, classes.clamp(min=0)), 0)


def class_wrong(output: Tensor, targets: Tensor) -> Tensor:
    """Whether the class is not the one with the largest output, or an output is NaN: bool ``[K, R, B]``."""
    # argmax takes a NaN for the largest number, and could so hit the class.
    return (output.argmax(-1) != targets) | output.isnan().any(-1)


def note_losses(output: Tensor, targets: Tensor) -> Tensor:
    """``sum_i ln(1 + e^{y_i}) - n_i y_i``, in nats: independent notes with probabilities ``sigma(y_i)``.

    Args:
        output: y, ``[K, R, B, n_out]``.
        targets: notes n, 0 or 1 each, NaN where not asked: ``[R, B, n_out]`` or ``[K, R, B, n_out]``.

    Returns:
        ``[K, R, B]``, differentiable in ``output``; 0 where not asked.

    Source: Boulanger-Lewandowski, Bengio & Vincent 2012, the RNN's log-likelihood of a frame. Differs: nothing.
    """
    # Torch's softplus breaks off at 20; this does not.
    losses = (-logsigmoid(-output) - targets.nan_to_num() * output).sum(-1)
    return torch.where(targets[..., 0].isnan(), 0, losses)


def note_slopes(output: Tensor, targets: Tensor) -> Tensor:
    """Gradient of ``note_losses`` by each output: ``sigma(y) - n``, ``[K, R, B, n_out]``."""
    return torch.where(targets.isnan(), 0, logistic(output) - targets)


def note_expected(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    """``note_losses`` on average over Gaussian outputs: ``[K, R, B]``."""
    losses = (expected_softplus(mean, variance) - targets.nan_to_num() * mean).sum(-1)
    return torch.where(targets[..., 0].isnan(), 0, losses)


def note_wrong(output: Tensor, targets: Tensor) -> Tensor:
    """Whether any note is on the wrong side of one half: bool ``[K, R, B]``."""
    # Said this way round, a NaN is wrong.
    return ~torch.where(targets > 0, output > 0, output <= 0).all(-1)


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How likely a network takes the right answers to be: functions of outputs and targets.

    ``losses`` are in nats and ``wrong`` says whether the likeliest answer is not the right one, both ``[K, R, B]``;
    ``slopes`` are the gradients of the losses by the outputs, and ``expected`` the losses on average over Gaussian
    outputs, of which it takes means and variances.
    """

    losses: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor], Tensor]
    wrong: Callable[[Tensor, Tensor], Tensor]
    expected: Callable[[Tensor, Tensor, Tensor], Tensor]


CLASSES = Likelihood(losses=class_losses, slopes=class_slopes, wrong=class_wrong, expected=class_expected)
NOTES = Likelihood(losses=note_losses, slopes=note_slopes, wrong=note_wrong, expected=note_expected)
