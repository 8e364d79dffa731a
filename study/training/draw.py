"""What sequences are drawn from: a random stream for each network that draws its own, or one for all."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from models import philox
from study.seeds import derive
from tasks import Draws


class StreamDraws(Draws):
    """Numbers of several streams, those of a stream in columns side by side."""

    def __init__(self, keys: Tensor, index: int, n_sequences: int) -> None:
        """Numbers of streams int64 ``[K]`` at an index, for as many sequences each; ``n_sequences`` is then of all."""
        self._keys, self._index, self._n_columns = keys, index, n_sequences
        self._n_calls = 0
        self.n_sequences = len(keys) * n_sequences

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """See ``Draws``."""
        place = (self._keys, self._index, self._call())
        return philox.integers(*place, *shape, low=low, high=high, n_columns=self._n_columns)

    def uniform(self, *shape: int) -> Tensor:
        """See ``Draws``."""
        found = philox.uniform(self._keys, self._index, self._call(), *shape, self._n_columns)
        return found.movedim(0, -2).flatten(-2)

    def _call(self) -> int:
        self._n_calls += 1
        return self._n_calls - 1


@lru_cache
def keys(seeds: tuple[int, ...], *path: str | int, device: str = "cpu") -> Tensor:
    """Keys of the streams that a path names under each of some seeds, int64 ``[K]`` on a device."""
    return torch.tensor([derive(seed, *path) for seed in seeds], dtype=torch.int64, device=device)
