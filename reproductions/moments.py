"""Fast dropout's moments of recurrent units beside those of networks with drawn masks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from models import FAST_CELLS
from models.activation import ACTIVATIONS

N_HIDDEN, LENGTH = 50, 50

SPECTRAL_RADIUS, DRIVE = 1.2, 0.5
"""Of the Gaussian recurrent weights, for many units, and the standard deviation of the net input's other part."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How far moments are off sampled ones; NaN where masks cause no variance.

    ``mean`` and ``plain_mean`` are root mean squares over units in sampled standard deviations, of fast dropout and of
    the network with weights times p_keep; ``variance_ratio`` is the mean variance over the sampled one, and
    ``correlation`` the mean absolute correlation of two sampled units.
    """

    mean: float
    plain_mean: float
    variance_ratio: float
    correlation: float


@dataclass(frozen=True, kw_only=True)
class State:
    """Units ``[H]`` in three accounts: sampled ones ``[n, H]``, fast dropout's moments, and the plain network's."""

    sampled: Tensor
    mean: Tensor
    variance: Tensor
    plain: Tensor

    def errors(self) -> Errors:
        """What ``Errors`` says of this state."""
        variance = self.sampled.var(0)
        scale = float(variance.mean().sqrt())
        if scale == 0:
            return Errors(mean=math.nan, plain_mean=math.nan, variance_ratio=math.nan, correlation=math.nan)

        def off(mean: Tensor) -> float:
            return float((mean - self.sampled.mean(0)).square().mean().sqrt()) / scale

        # Units that no mask changes have no correlation.
        varying = self.sampled[:, variance > 1e-12 * variance.max()]
        correlation = torch.corrcoef(varying.T).abs().fill_diagonal_(0)
        return Errors(
            mean=off(self.mean),
            plain_mean=off(self.plain),
            variance_ratio=float(self.variance.mean() / variance.mean()),
            correlation=float(correlation.sum()) / (len(correlation) * (len(correlation) - 1)),
        )


def after_one_step(name: str, p_drop: float, *, n_draws: int = 200_000) -> Errors:
    """From one fixed random state through one layer with masks on that state."""
    generator = Generator().manual_seed(0)
    before = ACTIVATIONS[name].function(torch.randn(N_HIDDEN, generator=generator, dtype=torch.float64))
    start = State(sampled=before.expand(n_draws, -1), mean=before, variance=torch.zeros_like(before), plain=before)
    (state,) = _steps(name, p_drop, start, 1, held=False, radius=SPECTRAL_RADIUS, generator=generator)
    return state.errors()


def along_a_sequence(
    name: str, p_drop: float, *, held: bool, radius: float = SPECTRAL_RADIUS, n_draws: int = 10_000
) -> list[Errors]:
    """From the zero state, after each of ``LENGTH`` steps.

    Args:
        name: the units' nonlinearity.
        p_drop: probability of dropping a recurrent unit.
        held: whether a sequence keeps one mask for all steps.
        radius: spectral radius of the recurrent weights.
        n_draws: sequences of masks.
    """
    generator = Generator().manual_seed(0)
    zero = torch.zeros(N_HIDDEN, dtype=torch.float64)
    start = State(sampled=zero.expand(n_draws, -1), mean=zero, variance=zero, plain=zero)
    states = _steps(name, p_drop, start, LENGTH, held=held, radius=radius, generator=generator)
    return [state.errors() for state in states]


def _steps(
    name: str, p_drop: float, state: State, length: int, *, held: bool, radius: float, generator: Generator
) -> Iterator[State]:
    """The states after each step."""
    cell, function, p_keep = FAST_CELLS[name_of_cell(name)], ACTIVATIONS[name].function, 1 - p_drop
    matrix = torch.randn(N_HIDDEN, N_HIDDEN, generator=generator, dtype=torch.float64)
    matrix *= radius / N_HIDDEN**0.5
    drives = DRIVE * torch.randn(length, N_HIDDEN, generator=generator, dtype=torch.float64)
    gain = torch.tensor([[[p_keep]]], dtype=torch.float64)
    kept = torch.empty(0)
    for t, drive in enumerate(drives):
        if t == 0 or not held:
            kept = torch.rand(state.sampled.shape, generator=generator) < p_keep
        moments = state.mean[None, None], state.variance[None, None]
        parts = drive[None, None], torch.zeros(1, 1, N_HIDDEN, dtype=torch.float64)
        mean, variance = cell.step({"recurrent": matrix[None]}, moments, parts, gain)
        state = State(
            sampled=function(drive + (state.sampled * kept) @ matrix),
            mean=mean[0, 0],
            variance=variance[0, 0],
            plain=function(drive + p_keep * state.plain @ matrix),
        )
        yield state


def name_of_cell(name: str) -> str:
    """The name of the Elman network of these units."""
    return f"elman_{name}"
