"""The logistic unit of readouts and likelihoods."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def logistic(raw: Tensor) -> Tensor:
    """``f(o) = 1 / (1 + e^-o)`` of every item, by itself.

    On a processor torch computes the last items of a tensor by a second formula if it is asked for ``sigmoid``, so that
    a member's last bit would hang on who stands behind it in the stack.
    """
    return logsigmoid(raw).exp()
