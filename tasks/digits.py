"""Pixel-by-pixel digits: which digit a network has seen, told only once the last pixel is in."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tasks.dataset import Dataset, Split
from tasks.draw import Draws
from tasks.likelihood import CLASSES
from tasks.task import Batch

Order = Literal["rows", "permuted"]

ORDERS: tuple[Order, ...] = ("rows", "permuted")

N_PIXELS, N_CLASSES, BRIGHTEST = 64, 10, 16

SPLIT_SEED, ORDER_SEED = 1, 2
"""Seeds of the permutation of the images before they are parted, and of the pixels."""

ENDS: dict[Split, tuple[int, int]] = {"train": (0, 1197), "valid": (1197, 1497), "test": (1497, 1797)}
"""Where each part begins and ends among the permuted images."""


class Digits(Dataset):
    """1797 images of hand-written digits, 8 by 8 pixels, one pixel at a step; the digit is read at the last step.

    Brightness, 0 to 16, is scaled to [0, 1]. Pixels come row by row from the top left, or in the variant ``permuted``
    in one order for all images: torch's permutation of 64 numbers with seed 2. The images are put in the order of
    torch's permutation with seed 1; 1197 of them train, 300 choose, 300 test. With ``length`` steps of history an
    answer sees the last so many pixels.

    Source: Le, Jaitly & Hinton 2015, pixel-by-pixel MNIST and permuted MNIST, known from others' accounts of that
    paper. Differs: the images are those that scikit-learn ships, a copy of the test set of the UCI repository's
    hand-written digits, with 64 pixels where MNIST's have 784.
    """

    name = "digits"
    source = "Le, Jaitly & Hinton 2015, pixel by pixel, on scikit-learn's digits"
    shortest_length = N_PIXELS
    longest_length = N_PIXELS
    symbolic = False
    likelihood = CLASSES
    n_in = 1
    n_out = N_CLASSES

    def __init__(self, *, order: Order = "rows") -> None:
        """The task with one of the orders of ``ORDERS``; raises ValueError for another."""
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, but got order={order!r}")
        self._order = order

    def load(self) -> None:
        """Take the images from scikit-learn."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(SPLIT_SEED))
        pixels = torch.randperm(N_PIXELS, generator=torch.Generator().manual_seed(ORDER_SEED))
        images = torch.from_numpy(bunch.data).float()[order] / BRIGHTEST
        self._images = images[:, pixels] if self._order == "permuted" else images
        self._classes = torch.from_numpy(bunch.target).long()[order]

    def sample(self, draws: Draws, length: int) -> Batch:
        """Pixels ``[64, B, 1]`` and classes ``[1, B]`` of training images, drawn with replacement."""
        self._require(length)
        return self.excerpt("train", draws.integers(*ENDS["train"]), length)

    def histories(self, split: Split) -> Tensor:
        """All pixels of every image: ``[N]``."""
        first, end = ENDS[split]
        return torch.full((end - first,), N_PIXELS)

    def excerpt(self, split: Split, answers: Tensor, length: int) -> Batch:
        """The last pixels of these images ``[length, B, 1]`` and their classes ``[1, B]``."""
        chosen = answers + ENDS[split][0]
        return Batch(inputs=self._images[chosen, N_PIXELS - length :].T[..., None], targets=self._classes[chosen][None])

    def constant(self) -> Tensor:
        """Logarithms of the classes' shares in training: ``[10]``."""
        return self._classes[slice(*ENDS["train"])].bincount(minlength=N_CLASSES).float().log()
