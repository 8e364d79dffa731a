"""Random numbers by counter: each is a function of its stream's key and of where it stands, on every device the same.

Philox4x32-10 maps a key of 64 bits and a counter of 128 to four words of 32 bits. Here the counter is the number of a
block, the ``call``, and the two halves of the ``index``: who asks twice in one place, for inputs and then for targets
say, counts his calls, and what an update draws has that update's index. The numbers of a call, 2^34 at most, come in
chunks of 64 blocks, the first words of all of them before the second ones, the third and the fourth.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Differs: nothing but the order of the words.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.fusion import kernels_for
from models.kernels.cpu import passes as cpu
from models.kernels.cpu import philox


def integers(keys: Tensor, index: int, call: int, *shape: int, low: int, high: int, n_columns: int) -> Tensor:
    """Equally likely integers from ``low`` up to ``high``, left out, on the CPU: int64 ``[*shape, K * n_columns]``.

    Where their number is no power of 2, probabilities differ by 2^-32.

    Args:
        keys: of the streams, int64 ``[K]``.
        index: 0 <= index < 2^63.
        call: 0 <= call < 2^32.
        shape: of the numbers in each column.
        low: the least.
        high: one past the largest; ValueError unless low < high <= low + 2^32.
        n_columns: columns of each stream; those of a stream stand side by side.
    """
    if not low < high <= low + 2**32:
        raise ValueError(f"low < high <= low + 2^32 must hold, but got low={low}, high={high}")
    out = torch.empty(*shape, len(keys) * n_columns, dtype=torch.int64)
    philox.integers(keys.numpy(), index, call, low, high - low, n_columns, out.numpy().reshape(-1))
    return out


def uniform(keys: Tensor, index: int, call: int, *shape: int) -> Tensor:
    """Multiples of 2^-24 in [0, 1), equally likely: float32 ``[K, *shape]``, on the device of the keys.

    Args:
        keys: see ``integers``.
        index: see ``integers``.
        call: see ``integers``.
        shape: of each stream's numbers.
    """
    kernels = kernels_for(keys.device)
    there = keys if kernels is not None else keys.cpu()
    out = torch.empty(len(keys), math.prod(shape), dtype=torch.float32, device=there.device)
    (kernels or cpu).uniform(there, index, call, out)
    return out.to(keys.device).view(len(keys), *shape)
