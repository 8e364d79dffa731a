"""Initialisers of a recurrent matrix, each at its natural scale; the caller multiplies by the initialisation scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

Initialiser = Callable[[Generator, int], Tensor]
"""(generator on the CPU, n_hidden) -> float64 ``[H, H]``, laid out so that the net input is ``state @ matrix``."""

FAN_IN = 15
"""Incoming connections of a unit in ``sparse``."""


def gaussian(generator: Generator, n_hidden: int) -> Tensor:
    """Independent normal entries with standard deviation ``1 / sqrt(n_hidden)``; spectral radius about 1.

    Source: Glorot & Bengio 2010, in the normal form; Girko 1984 for the radius. Differs: nothing.
    """
    return _normal(generator, n_hidden) / math.sqrt(n_hidden)


def orthogonal(generator: Generator, n_hidden: int) -> Tensor:
    """A random orthogonal matrix, uniform on the group: ``Q diag(sign R_ii)`` of a Gaussian matrix's QR factors.

    Source: Saxe et al. 2014 (as an initialiser); Mezzadri 2007 (the sign). Differs: nothing.
    """
    factors = torch.linalg.qr(_normal(generator, n_hidden))
    matrix: Tensor = factors.Q * factors.R.diagonal().sign()
    return matrix


def identity(generator: Generator, n_hidden: int) -> Tensor:
    """The identity; draws nothing.

    Source: Le, Jaitly & Hinton 2015. Differs: nothing.
    """
    return torch.eye(n_hidden, dtype=torch.float64)


def sparse(generator: Generator, n_hidden: int) -> Tensor:
    """At most 15 normal incoming weights for each unit, the rest zero, scaled to spectral radius 1.

    Source: Martens & Sutskever 2011; Sutskever et al. 2013, section 4 (the radius as a scale). Differs: nothing.
    """
    order = torch.rand(n_hidden, n_hidden, generator=generator, dtype=torch.float64).argsort(dim=0)
    matrix = torch.where(order < FAN_IN, _normal(generator, n_hidden), 0)
    # Never 0: every unit has an incoming connection, so there are cycles, and 15 a unit make them many.
    return matrix / float(torch.linalg.eigvals(matrix).abs().max())


def _normal(generator: Generator, n_hidden: int) -> Tensor:
    return torch.randn(n_hidden, n_hidden, generator=generator, dtype=torch.float64)


INITIALISERS: dict[str, Initialiser] = {
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "identity": identity,
    "sparse": sparse,
}
