"""What theory says of the gradient of a trained network, from its recurrent matrices alone."""

from __future__ import annotations

import torch
from torch import Tensor

from models.network import Network


def bound_columns(network: Network, matrices: Tensor, norm: Tensor) -> dict[str, Tensor]:
    """Bounds on the error flow of simple recurrent networks, to be held against the measured one.

    ``|delta_t| <= gamma |delta_{t+1}|`` with ``gamma = f'_max |W|_2``, where no error enters at step t. Hence
    ``bound/decay_rate = ln gamma`` in nats per step; ``bound/vanishing``, gamma < 1, is sufficient for vanishing, and
    ``bound/exploding_possible``, gamma > 1, is necessary for exploding. ``bound/vanishing_by_weights``,
    ``max |w| < 1 / (n f'_max)``, implies gamma < 1, because ``|W|_2 <= n max |w|``. Conditions are 1 or 0. Where steps
    have matrices of their own, |W|_2 and max |w| are the largest of all.

    Args:
        network: shape of the stack, n = n_hidden.
        matrices: what errors pass on their way, ``[K, M, H, H]``.
        norm: ``|W|_2``, the largest singular value of each member's matrices, ``[K]``; NaN where one is not finite.

    Returns:
        The numbers by name, each ``[K]``, NaN where the norm is; none for a cell whose Jacobian is more than a diagonal
        of slopes times W: gates and fast dropout.

    Source: Hochreiter 1991 and Hochreiter & Schmidhuber 1997, section 3.1 (max |w| < 4 / n for the logistic function,
    f'_max = 1/4); Pascanu et al. 2013, section 2.1. Differs: the norm is the spectral norm, Hochreiter's is that of row
    sums; lambda_1 of Pascanu is the largest singular value, which the inequality needs where W is not normal.
    """
    slope = network.cell.slope_max
    if slope is None:
        return {}
    gamma = slope * norm
    largest = network.n_hidden * slope * matrices.abs().amax((1, 2, 3))
    conditions = {
        "bound/vanishing": gamma < 1,
        "bound/exploding_possible": gamma > 1,
        "bound/vanishing_by_weights": largest < 1,
    }
    columns = {name: torch.where(norm.isnan(), torch.nan, held.to(norm)) for name, held in conditions.items()}
    return {"bound/decay_rate": gamma.log(), **columns}
