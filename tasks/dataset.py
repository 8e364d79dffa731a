"""What every data set is: real sequences in three parts, and answers that are asked with a part of their history."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from tasks.likelihood import Likelihood
from tasks.task import Batch, Problem

Split = Literal["train", "valid", "test"]

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
"""What is learned from, what is chosen by, and what is measured by when nothing is left to choose."""


class Dataset(Problem):
    """Real sequences, of which none tells how far back an answer's cause lies: it is found by cutting the past off.

    The answers of a part are numbered. Each may be asked with any number of steps of its history, up to all of them.
    ``n_in`` and ``n_out`` are known once the data is loaded. Where a sequence to train on ends before the batch does,
    the targets of its missing steps say that they are not asked: -1 as a class, NaN as a value.
    """

    likelihood: ClassVar[Likelihood]

    @property
    def shortest_rung(self) -> int:
        """One step of history."""
        return 1

    def files(self) -> Sequence[str]:
        """Paths of the files that the data is read from; none where it comes with a package."""
        return ()

    @abstractmethod
    def load(self) -> None:
        """Read the data; raises OSError if it is not there or ValueError if not of its layout, each with a sentence."""

    @abstractmethod
    def histories(self, split: Split) -> Tensor:
        """Steps of history that there are for each answer of a part: int64 ``[N]``, each 1 or more."""

    @abstractmethod
    def excerpt(self, split: Split, answers: Tensor, length: int) -> Batch:
        """The last ``length`` steps before each of these answers, and nothing but that answer asked.

        Args:
            split: which part.
            answers: numbers of answers, int64 ``[B]``.
            length: steps of history, no more than any of them has.

        Returns:
            Inputs ``[length, B]`` or ``[length, B, n_in]`` and targets ``[1, B]`` or ``[1, B, n_out]``, on the CPU.
        """

    @abstractmethod
    def constant(self) -> Tensor:
        """Outputs ``[n_out]`` of the best answer that knows only how often each answer is right in training."""

    def loss(self, batch: Batch, output: Tensor) -> Tensor:
        """Mean negative log-likelihood of the answers that are asked, in nats: ``[K]``."""
        return self.likelihood.losses(output, batch.targets).sum((1, 2)) / _n_asked(batch)

    def loss_and_slope(self, batch: Batch, output: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Problem.loss_and_slope``, by the closed form."""
        slopes = self.likelihood.slopes(output, batch.targets)
        return self.loss(batch, output), slopes / _n_asked(batch)[..., None, None, None]

    def expected_loss(self, batch: Batch, mean: Tensor, variance: Tensor) -> Tensor:
        """As ``Problem.expected_loss``, by the likelihood's."""
        return self.likelihood.expected(mean, variance, batch.targets).sum((1, 2)) / _n_asked(batch)


def _n_asked(batch: Batch) -> Tensor:
    """Number of answers that are asked, of all members or of each: ``[]`` or ``[K]``."""
    targets = batch.targets
    asked = ~targets[..., 0].isnan() if targets.is_floating_point() else targets >= 0
    return asked.sum((-2, -1))


def file_path(path: object) -> str:
    """A task's parameter that names a file; raises ValueError if it is no text."""
    if not isinstance(path, str):
        raise ValueError(f"path must be text, but got path={path!r}")
    return path


def read_file(kind: str, path: str | Path) -> bytes:
    """What a file holds.

    Raises:
        ValueError: the path is not absolute.
        OSError: the file cannot be read on this machine.
    """
    if not Path(path).is_absolute():
        raise ValueError(f"path must be absolute, for workers run in folders of their own, but got path={str(path)!r}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OSError(f"{kind} must be in a file that can be read, but {path} cannot: {error.strerror}") from None
