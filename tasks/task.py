"""What every problem is: a way to draw sequences, and a loss; and what a task with a lag has besides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tasks.draw import Draws


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

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device; a GPU takes it from pinned memory, so that no one waits for it."""
        pinned = torch.device(device).type == "cuda" and self.inputs.device.type == "cpu"
        inputs, targets = (
            (one.pin_memory() if pinned else one).to(device, non_blocking=pinned) for one in (self.inputs, self.targets)
        )
        return Batch(inputs=inputs, targets=targets)


class Problem(ABC):
    """Sequences to be learned from, and a loss of what a network answers at their last R steps.

    Outputs of a network are ``[K, R, B, n_out]``; targets without a member axis are shared by all members. ``symbolic``
    says whether inputs travel as codes; ``shortest_length`` and ``longest_length`` are the least and the largest T of a
    sequence that the variant can be trained on (on the class, those of the default variant), None where there is no
    largest, and ``shortest_rung`` is the least length at which a network can be measured. A constructor takes nothing
    but the keyword parameters of the variant, each of them a ``Literal`` where its values are a closed set, so that the
    variants can be listed from the signature.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    shortest_length: int
    longest_length: ClassVar[int | None] = None
    symbolic: ClassVar[bool]
    n_in: int
    n_out: int

    @property
    @abstractmethod
    def shortest_rung(self) -> int:
        """Least length that a ladder may name."""

    @abstractmethod
    def sample(self, draws: Draws, length: int) -> Batch:
        """Draw sequences of ``length`` steps to train on, each from its column of ``draws``, on the CPU.

        The batch is a function of what is drawn and of the length alone, and its tensors are its own: batches are drawn
        before the updates that they are for. Raises ValueError if ``length`` is below ``shortest_length``.
        """

    @abstractmethod
    def loss(self, batch: Batch, output: Tensor) -> Tensor:
        """Training loss of each member, averaged over sequences and answers: ``[K]``, differentiable in ``output``.

        It hangs on nothing but its arguments, not on what a task remembers: on a GPU its launches are recorded and
        repeated for other batches. One that asks the GPU for a number, as ``.item()`` does, cannot be recorded and
        makes training slower.
        """

    def loss_and_slope(self, batch: Batch, output: Tensor) -> tuple[Tensor, Tensor]:
        """The loss ``[K]``, and the gradient of its sum over members by ``output``, of the output's shape."""
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            loss = self.loss(batch, leaf)
            (slope,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), slope

    @property
    def expects_loss(self) -> bool:
        """Whether the problem can say what its loss is on average, see ``expected_loss``."""
        return type(self).expected_loss is not Problem.expected_loss

    def expected_loss(self, batch: Batch, mean: Tensor, variance: Tensor) -> Tensor:
        """Training loss of each member on average over independent Gaussian outputs: ``[K]``, differentiable in both.

        Without variance it is the loss. A problem need not define it: fast dropout then reads its means alone.
        """
        raise NotImplementedError(f"the loss of task {self.name} is not known on average")

    def expected_loss_and_slopes(self, batch: Batch, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """That loss ``[K]``, and the gradients of its sum over members by mean and variance, of their shape."""
        with torch.enable_grad():
            leaves = mean.detach().requires_grad_(), variance.detach().requires_grad_()
            loss = self.expected_loss(batch, *leaves)
            by_mean, by_variance = torch.autograd.grad(loss.sum(), leaves)
        return loss.detach(), by_mean, by_variance

    def _require(self, length: int) -> None:
        """Raise ValueError for a length that sequences cannot have."""
        require_at_least("length", length, self.shortest_length)
        if self.longest_length is not None and length > self.longest_length:
            raise ValueError(f"length <= {self.longest_length} must hold, but got length={length}")


class Task(Problem):
    """A problem in which something seen early decides an answer that is read at the last R steps.

    Sequences are drawn without end, of any length from ``shortest_length`` on. ``noisy`` says that the inputs up to an
    answer do not tell it for certain.
    """

    noisy: bool = False

    @property
    def shortest_rung(self) -> int:
        """That of training."""
        return self.shortest_length

    @abstractmethod
    def min_lag(self, length: int) -> int:
        """Guaranteed lag at this length, in time steps: how long every sequence makes a network remember.

        ``min over sequences and answers of r - s``: r is the step at which the answer is read, T - 1 where there is
        one answer; s is the last step for which the inputs at s, s+1, ... still determine that answer. Whoever hears
        only what comes after s cannot answer, so something has to be held for r - s steps. Steps count from 0, so that
        an answer read at the step of the input itself has lag 0. Where the answer is told more than once, if only with
        some probability of being right, the last telling counts. Where easy answers are asked for beside those that
        need memory, as in the prediction of every next symbol, the answers that need it count; the task says which.
        """

    @abstractmethod
    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """Whether each sequence is failed by the published criterion, bool ``[K, B]``; a NaN output is a failure."""

    @abstractmethod
    def chance_error(self) -> float:
        """Expected share of failed sequences of the best answer that ignores the inputs.

        Where it depends on the length, its limit for long sequences.
        """

    @abstractmethod
    def oracle(self, batch: Batch) -> Tensor:
        """Output of a network with perfect memory, computed from ``batch.inputs`` alone: ``[R, B, n_out]``.

        No output has a lower loss; where the task is ``noisy``, no function of the inputs up to each answer has a
        lower expected loss. A member axis of the inputs is kept.
        """

    def oracle_error(self) -> float:
        """Expected share of sequences that the oracle fails: 0, unless noise hides the answer from it as well."""
        return 0.0


def require_one_of(parameter: str, value: object, known: Collection[object]) -> None:
    """Raise ValueError for a value of a variant's parameter that is none of the known ones."""
    if value not in known:
        raise ValueError(f"{parameter} must be one of {', '.join(map(str, known))}, but got {parameter}={value!r}")


def require_at_least(parameter: str, value: int, least: int) -> None:
    """Raise ValueError for a number that is too small, or is not a whole one."""
    if not isinstance(value, int):
        raise ValueError(f"{parameter} must be a whole number, but got {parameter}={value!r}")
    if value < least:
        raise ValueError(f"{parameter} >= {least} must hold, but got {parameter}={value}")
