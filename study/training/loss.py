"""What the members of a stack are trained by: the loss of their outputs, or its average over fast dropout's noise."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks import Batch, Problem


def loss_and_slope(task: Problem, batch: Batch, output: Tensor, averaged: Tensor | None) -> tuple[Tensor, Tensor]:
    """The training loss of each member ``[K]``, and the gradient of its sum by ``output``.

    Args:
        task: what the loss is of.
        batch: targets.
        output: outputs ``[K, R, B, n_out]``; where ``averaged`` is given, means and behind them variances.
        averaged: 1 for members that are trained by the loss on average over their outputs, 0 for those by that of the
            means, ``[K, 1, 1, 1]``; None where there are only the latter.
    """
    if averaged is None:
        return task.loss_and_slope(batch, output)
    mean, variance = output.chunk(2, dim=-1)
    expected, by_mean, by_variance = task.expected_loss_and_slopes(batch, mean, averaged * variance)
    # Without variance the expected loss is the loss, but not to the last bit.
    plain, slope = task.loss_and_slope(batch, mean)
    chosen = averaged > 0
    loss = torch.where(chosen.flatten(), expected, plain)
    return loss, torch.cat((torch.where(chosen, by_mean, slope), torch.where(chosen, by_variance, 0)), dim=-1)
