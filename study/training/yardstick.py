"""How the members of a stack are measured, and what that amounts to: the interface of ladders and contexts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from study.outcome import Rung
from tasks import Batch, Problem

CHUNK = 250
"""Sequences drawn and evaluated at once, however many are asked for: a stack's states then stay in cache."""

Infer = Callable[[Sequence[int], Batch], Tensor]
"""Outputs of some members: (indices, batch) -> ``[len(indices), R, B, n_out]``."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a member's rungs amount to.

    ``dependency_length`` is in time steps, ``skill`` in [0, 1]; ``complete`` says that nothing is left to be learned.
    """

    dependency_length: int
    skill: float
    complete: bool


class Yardstick(ABC):
    """Measures a problem; the same purpose, lengths and number of sequences give the same sequences."""

    problem: Problem

    @abstractmethod
    def measure(
        self, infer: Infer, n_members: int, *, purpose: str, ladder: Sequence[int], n_sequences: int
    ) -> list[tuple[Rung, ...]]:
        """The rungs of each member, in the order of the ladder.

        Args:
            infer: what the members answer.
            n_members: number of members.
            purpose: names independent draws of sequences that no update sees.
            ladder: increasing lengths, in time steps.
            n_sequences: sequences at each length.
        """

    @abstractmethod
    def score(self, rungs: Sequence[Rung]) -> Score:
        """What the rungs of one member amount to."""

    @abstractmethod
    def probe_batch(self, n_sequences: int) -> Batch:
        """Sequences of the longest training length, which no update sees, for gradient statistics."""
