"""Random numbers for sequences: what every problem draws from."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

N_LEVELS = 2**31
"""Levels of what is uniform before it is made normal: normal numbers end at 6.2 standard deviations."""


class Draws(ABC):
    """Independent numbers for B sequences, which stand side by side along the last axis of all that is drawn.

    Networks that draw sequences of their own have a random stream each, and are served at once: their sequences stand
    side by side as well. So that each gets what it would get alone, a sampler draws from here only, and makes a
    sequence of nothing but the numbers in its column, with operations that round alike wherever an item stands.
    """

    n_sequences: int

    @abstractmethod
    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Equally likely integers from ``low`` to ``high``, which is left out: int64 ``[*shape, B]``.

        Raises ValueError unless ``low < high <= low + 2^32``.
        """

    @abstractmethod
    def uniform(self, *shape: int) -> Tensor:
        """Numbers uniform in [0, 1): float32 ``[*shape, B]``."""

    def normal(self, *shape: int) -> Tensor:
        """Numbers of mean 0 and variance 1: float32 ``[*shape, B]``; the normal quantiles of uniform ones."""
        level = (self.integers(0, N_LEVELS, *shape).double() + 0.5) / N_LEVELS
        quantile: Tensor = torch.special.ndtri(level)
        return quantile.float()

    def below(self, ends: Tensor) -> Tensor:
        """For each sequence an integer from 0 to its end, which is left out: int64 ``[B]``.

        Args:
            ends: int64 ``[B]`` or ``[]``, each from 1 to 2^53.
        """
        # float64 tells apart all places of any file that fits a memory.
        even = (self.integers(0, 2**26).double() * 2**27 + self.integers(0, 2**27)) / 2**53
        return (even * ends).long()
