"""The input's part of the net input: what a network's input projection hands to its cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True, kw_only=True)
class Drive:
    """Rows of a table, and which of them each step of each sequence takes.

    ``parts`` are the table's: ``(mean,)``, or ``(mean, variance)`` in fast dropout, each ``[K, N, G*H]``. ``codes``,
    int64 ``[T, B]``, or ``[K, T, B]`` where members differ, selects its rows: a symbol's projection is the same
    wherever it stands. Without codes every place has a row of its own, and the parts are ``[K, T, B, G*H]``.
    """

    parts: tuple[Tensor, ...]
    codes: Tensor | None = None

    @property
    def grid(self) -> tuple[int, int, int]:
        """Members, steps and sequences."""
        n_members, *places = self.parts[0].shape[:-1]
        n_steps, n_sequences = places if self.codes is None else self.codes.shape[-2:]
        return n_members, n_steps, n_sequences

    def dense(self) -> tuple[Tensor, ...]:
        """The selected rows, each part ``[K, T, B, G*H]``; differentiable by autograd."""
        if self.codes is None:
            return self.parts
        if self.codes.ndim == 2:
            return tuple(part.index_select(1, self.codes.flatten()).view(*self.grid, -1) for part in self.parts)
        member = torch.arange(len(self.parts[0]), device=self.codes.device)[:, None, None]
        return tuple(part[member, self.codes] for part in self.parts)

    def collect(self, flow: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients by ``parts``, from those by what ``dense`` gave."""
        if self.codes is None:
            return flow
        # As a product, because adding up by index has no fixed order on a GPU.
        selected = one_hot(self.codes.flatten(-2), self.parts[0].shape[1]).mT
        return tuple(selected.to(one.dtype) @ one.flatten(1, 2) for one in flow)
