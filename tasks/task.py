"""What every task is: a way to draw sequences, a loss, and a rule for failing a sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences of one length T with what is to be answered at their last R steps.

    ``inputs`` is either symbol codes, int64 ``[T, B]``, or values, float32 ``[T, B, n_in]``; ``targets`` is either
    classes, int64 ``[R, B]``, or values, float32 ``[R, B, n_out]``. Where every member of a stack draws its own
    batch, both carry a leading member axis K.
    """

    inputs: Tensor
    targets: Tensor

    @property
    def n_read(self) -> int:
        """Number R of final steps that are answered."""
        return self.targets.shape[-3 if self.targets.is_floating_point() else -2]


class Task(ABC):
    """A problem in which something seen early decides an answer that is read at the last R steps.

    Outputs of a network are ``[K, R, B, n_out]`` (any leading axes are accepted); targets without a member axis are
    shared by all members. ``symbolic`` says whether inputs travel as codes.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    shortest_length: ClassVar[int]
    symbolic: ClassVar[bool]
    n_in: int
    n_out: int

    @abstractmethod
    def sample(self, generator: Generator, n_sequences: int, length: int) -> Batch:
        """Draw ``n_sequences`` sequences of ``length`` steps on the generator's device."""

    @abstractmethod
    def min_lag(self, length: int) -> int:
        """Smallest number of steps, over all sequences of this length, from the earliest needed input to the answer."""

    @abstractmethod
    def loss(self, batch: Batch, output: Tensor) -> Tensor:
        """Training loss of each member, averaged over sequences and answers: ``[K]``."""

    @abstractmethod
    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """Whether each sequence is failed by the published criterion, bool ``[K, B]``; a NaN output is a failure."""

    @abstractmethod
    def chance_error(self) -> float:
        """Expected share of failed sequences of the best answer that ignores the inputs."""

    @abstractmethod
    def oracle(self, batch: Batch) -> Tensor:
        """Output of a network with perfect memory, computed from ``batch.inputs`` alone: ``[R, B, n_out]``."""
