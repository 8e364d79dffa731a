"""What networks start from: recurrent matrices at their natural scale, the spread of other weights, chrono biases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

Initialiser = Callable[[Generator, int], Tensor]
"""(generator on the CPU, n_hidden) -> float64 ``[H, H]``, laid out so that the net input is ``state @ matrix``."""

FAN_IN = 15
"""Incoming connections of a unit in ``sparse``."""


def _one_over_root(n: int) -> float:
    return 1 / math.sqrt(n)


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """How a network's weights are drawn before the caller's scales multiply them.

    ``recurrent`` makes the matrix of every recurrent block. Input and readout weights are normal with mean 0 and a
    standard deviation that follows from n_in or n_hidden; the default keeps the variance of what they read.
    """

    recurrent: Initialiser
    input_deviation: Callable[[int], float] = _one_over_root
    readout_deviation: Callable[[int], float] = _one_over_root


@dataclass(frozen=True, kw_only=True)
class Leak:
    """How many units of a leaky network leak, as a share, and the ends of the range of their rates, all in [0, 1]."""

    low: float
    high: float
    share: float


SLOW = Leak(low=0.02, high=0.2, share=1.0)
"""The rates of Pascanu et al. 2013, supplement, for every unit (there for 100 of 400)."""


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

    The initialisation scale is the spectral radius: 1.1 is that of Sutskever et al. 2013. Their readout weights,
    N(0, 0.1^2) with 100 units, are ours at that size, and their input weights, N(0, 0.001^2) or N(0, 0.1^2), are ours
    at an input scale of 0.001 or 0.1 times sqrt(n_in).

    Source: Martens & Sutskever 2011; Sutskever et al. 2013, section 4 (the radius as a scale). Differs: nothing.
    """
    matrix = torch.where(_incoming(generator, n_hidden, FAN_IN), _normal(generator, n_hidden), 0)
    # Never 0: every unit has an incoming connection, so there are cycles, and 15 a unit make them many.
    return matrix / float(torch.linalg.eigvals(matrix).abs().max())


def uniform(generator: Generator, n_hidden: int) -> Tensor:
    """Independent uniform entries with variance ``1 / n_hidden``: between -r and r with ``r = sqrt(3 / n_hidden)``.

    Source: the small uniform weights of Schaefer, Udluft & Zimmermann 2008. Differs: the width is not theirs but the
    one with a spectral radius of about 1, like that of ``gaussian``; at 100 units the scale 1.15 gives r = 0.2.
    """
    entries = torch.rand(n_hidden, n_hidden, generator=generator, dtype=torch.float64)
    return (2 * entries - 1) * math.sqrt(3 / n_hidden)


def smart_tanh(generator: Generator, n_hidden: int) -> Tensor:
    """At most 15 normal outgoing weights for each unit, the rest zero, scaled to spectral radius 0.95.

    Source: Pascanu et al. 2013, ``smart_tanh`` of their program, which keeps 15 entries in every row of a matrix that
    the state multiplies from the left, as here: connections that leave a unit. Differs: nothing.
    """
    return 0.95 * sparse(generator, n_hidden).mT


def chrono(generator: Generator, n_hidden: int, longest: float) -> Tensor:
    """Biases ``[H]`` of gates that keep the state, for memories of 2 to ``longest`` steps: ``b = log u``.

    ``u`` is uniform on [1, longest - 1]. Without other net input a gate with bias b forgets in ``1 + e^b`` steps,
    because ``1 - logistic(b) = 1 / (1 + e^b)``; these times are uniform between 2 and ``longest``, which is 2 or more.

    Source: Tallec & Ollivier 2018, section 2, for LSTM, whose input gate gets -b. Differs: nothing for LSTM. The paper
    names GRU, too; there we give z, the share of the state that is kept, the same biases, and its other share
    ``1 - z = logistic(-net input)`` has their negative by itself.
    """
    return torch.rand(n_hidden, generator=generator, dtype=torch.float64).mul_(longest - 2).add_(1).log_()


def retention(generator: Generator, n_hidden: int, leak: Leak) -> Tensor:
    """What units keep of their state from step to step, ``[H]``: ``1 - u`` for those that leak, 0 for all others.

    ``u`` is uniform between ``low`` and ``high``; it is the share of a unit's new value. The first units leak, a share
    ``share`` of them all: without other input they forget within ``1 / u`` steps.

    Source: Bengio, Boulanger-Lewandowski & Pascanu 2012 (rates of one's own, drawn from a range); Pascanu et al. 2013,
    supplement (some units only). Differs: neither says which of the two shares is drawn; as the other one ``u`` would
    make units fast, which are to be slow.
    """
    rates = torch.rand(n_hidden, generator=generator, dtype=torch.float64) * (leak.high - leak.low) + leak.low
    return torch.where(torch.arange(n_hidden) < round(leak.share * n_hidden), 1 - rates, 0)


def connections(generator: Generator, n_hidden: int, connectivity: float) -> Tensor:
    """Which recurrent connections exist in a sparsely connected network, ``[H, H]``, bool: ``state @ matrix``.

    Every unit has the same number of incoming ones, the share ``connectivity`` of n_hidden to the nearest number, one
    at least, from random units.

    Source: the sparse state of Schaefer, Udluft & Zimmermann 2008. Differs: how they place connections is not known to
    us.
    """
    return _incoming(generator, n_hidden, max(1, round(connectivity * n_hidden)))


def _incoming(generator: Generator, n_hidden: int, n_connections: int) -> Tensor:
    """``n_connections`` random ones in every column of zeros, as truth values."""
    return torch.rand(n_hidden, n_hidden, generator=generator, dtype=torch.float64).argsort(dim=0) < n_connections


def _normal(generator: Generator, n_hidden: int) -> Tensor:
    return torch.randn(n_hidden, n_hidden, generator=generator, dtype=torch.float64)


def _normal_at(deviation: float, generator: Generator, n_hidden: int) -> Tensor:
    return deviation * _normal(generator, n_hidden)


def _as_pascanu(recurrent: Initialiser, deviation: float) -> Initialisation:
    """Input and readout weights of one standard deviation, whatever the sizes.

    Source: Pascanu et al. 2013, the numbers as standard deviations, as in their program. Differs: nothing.
    """
    return Initialisation(
        recurrent=recurrent, input_deviation=lambda n_in: deviation, readout_deviation=lambda n_hidden: deviation
    )


INITIALISERS: dict[str, Initialisation] = {
    "gaussian": Initialisation(recurrent=gaussian),
    "uniform": Initialisation(recurrent=uniform),
    "orthogonal": Initialisation(recurrent=orthogonal),
    "identity": Initialisation(recurrent=identity),
    "sparse": Initialisation(recurrent=sparse),
    "pascanu_sigmoid": _as_pascanu(partial(_normal_at, 0.01), 0.01),
    "basic_tanh": _as_pascanu(partial(_normal_at, 0.1), 0.1),
    "smart_tanh": _as_pascanu(smart_tanh, 0.01),
}
"""By the name that a study file uses."""
