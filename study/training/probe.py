"""Gradient statistics: the error flow of every member on a probe batch, and what follows from it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from models.cell import Flow, Tape, Weights
from models.dropout import Keep
from models.network import Network
from study.training.bound import bound_columns
from study.training.lyapunov import finite_states, lyapunov_exponent
from tasks import Batch, Problem

HORIZON_SHARE = 1e-3
"""The horizon is the largest k at which the error flow is still this share of g(1)."""

SATURATION_SHARE = 0.05
"""A unit is saturated where its slope is below this share of its largest slope."""

MAX_THREADS = 16
"""Threads that factorise the matrices of a GPU's stack, while the other cores of its machine have nothing to do."""

Curve = tuple[float, ...]
"""g(1), g(2), ..., the error signal at k steps before the answer."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Statistics of one member: its error flow, that of each gate, carousel and state alone, and scalars by name."""

    error_flow: Curve
    part_flow: dict[str, Curve]
    metrics: dict[str, float]


def probe(network: Network, weights: Weights, keep: Keep | None, task: Problem, batch: Batch) -> list[Probe]:
    """Measure every member on a batch it is not trained on.

    ``delta_t = dE/da_t`` with E the loss of one sequence; ``g(k)`` is the root mean square over the batch of the 2-norm
    of delta at k steps before the answer.

    Args:
        network: shape of the stack.
        weights: all parameters, leading axis K.
        keep: keep probabilities, or None without dropout.
        task: gives the loss.
        batch: B shared sequences of the longest training length.

    Returns:
        One probe per member; what follows from states that are not finite is NaN.

    Source: Hochreiter 1991; Hochreiter et al. 2001, section 2. Differs: nothing.
    """
    n_sequences = batch.targets.shape[1]

    def slope(output: Tensor) -> Tensor:
        # The loss is a mean over sequences; times B it is each sequence's own.
        return task.loss_and_slope(batch, output)[1] * n_sequences

    tape, flow = network.flow(weights, batch.inputs, keep=keep, n_read=batch.n_read, slope=slope)
    finite = finite_states(tape)
    whole, parts = _curves(network, flow, finite)
    columns = _recurrent_columns(network, weights, tape)
    columns |= {name: torch.where(finite, one, torch.nan) for name, one in _state_columns(network, tape).items()}
    columns["lyapunov/max"] = lyapunov_exponent(network, weights, keep, tape)
    for prefix, curves in {"gradient": whole, **{f"gradient/{name}": part for name, part in parts.items()}}.items():
        columns |= {f"{prefix}/{name}": column for name, column in flow_metrics(curves).items()}
    scalars = {name: column.tolist() for name, column in columns.items()}
    rows = {name: _rows(part) for name, part in parts.items()}
    return [
        Probe(
            error_flow=curve,
            part_flow={name: curves[k] for name, curves in rows.items()},
            metrics={name: column[k] for name, column in scalars.items()},
        )
        for k, curve in enumerate(_rows(whole))
    ]


def error_flow(delta: Tensor) -> Tensor:
    """``g(k) = sqrt(mean_b |delta_{T-1-k,b}|^2)`` for k = 0 ... T-1.

    Args:
        delta: error signals ``[K, T, B, ..., F]`` of a loss read at the last step.

    Returns:
        ``[K, T, ...]``, the step of the answer (k = 0) first. The sum of squares is taken in float64, where float32's
        smallest error signals still have a square.

    Source: docs/measures.md, "Error flow". Differs: nothing.
    """
    norm: Tensor = torch.linalg.vector_norm(delta, dim=-1, dtype=torch.float64)
    return norm.square().mean(2).sqrt().flip(1)


def flow_metrics(curves: Tensor) -> dict[str, Tensor]:
    """Decay rate, half-life and horizon of error flow curves.

    ``decay_rate`` is the least-squares slope of ln g(k) over k, in nats per step, over the k at which g is positive and
    finite (where fewer than two are, -inf of a finite curve, NaN of another); ``half_life`` is ln 2 / -decay_rate in
    steps, infinite without decay; ``horizon`` is the largest k with g(k) >= 1e-3 g(1), 0 where g(1) is 0, NaN where it
    is not finite.

    Args:
        curves: g(1), g(2), ... of K members, ``[K, T-1]``, float64.

    Returns:
        The three by name, each ``[K]``.

    Source: docs/measures.md, "Error flow". Differs: nothing.
    """
    k = torch.arange(1, curves.shape[1] + 1, dtype=curves.dtype, device=curves.device)
    counted, finite = (curves > 0) & curves.isfinite(), curves.isfinite()
    n, log = counted.sum(1, keepdim=True), torch.where(counted, curves, 1).log()
    apart = torch.where(counted, k - (counted * k).sum(1, keepdim=True) / n, 0)
    rate = (apart * (log - log.sum(1, keepdim=True) / n)).sum(1) / apart.square().sum(1)
    rate = torch.where(n[:, 0] >= 2, rate, torch.where(finite.all(1), -torch.inf, torch.nan))
    first = curves[:, :1]
    reached = torch.where((first > 0) & (curves >= HORIZON_SHARE * first), k, 0)
    # Of a curve without any step it is 0.
    horizon = torch.cat((torch.zeros_like(n), reached), dim=1).amax(1)
    return {
        "decay_rate": rate,
        "half_life": torch.where(rate >= 0, torch.inf, math.log(2) / -rate),
        "horizon": torch.where(first.isfinite().all(1), horizon, torch.nan),
    }


def _curves(network: Network, flow: Flow, finite: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """g(k) from k = 1 on, NaN but for these members: of all net inputs together, and of the parts by name."""
    blocks = error_flow(flow.net.view(*flow.net.shape[:-1], network.cell.n_gates, network.n_hidden))
    parts = {name: blocks[..., gate] for gate, name in enumerate(network.cell.gate_names)}
    for name, signals in (("carousel", flow.carousel), ("state", flow.state)):
        if signals is not None:
            parts[name] = error_flow(signals)

    def known(curves: Tensor) -> Tensor:
        return torch.where(finite[:, None], curves, torch.nan)[:, 1:]

    return known(blocks.norm(dim=-1)), {name: known(part) for name, part in parts.items()}


def _rows(curves: Tensor) -> list[Curve]:
    return [tuple(curve) for curve in curves.tolist()]


def _recurrent_columns(network: Network, weights: Weights, tape: Tape) -> dict[str, Tensor]:
    """Of the candidate's recurrent matrices, and what theory makes of them; none for a cell without."""
    matrices = network.cell.matrices(weights, tape.states.shape[1])
    if matrices is None:
        return {}
    start = network.cell.candidate_gate * network.n_hidden
    # Factors of small matrices: a GPU takes longer for them than the copy does.
    blocks = matrices[..., start : start + network.n_hidden].cpu()
    # LAPACK refuses non-finite input; a diverged member's spectrum is reported as NaN.
    finite = blocks.isfinite().flatten(1).all(1)
    safe = torch.where(finite[:, None, None, None], blocks, 0)
    nan = torch.full_like(finite, torch.nan, dtype=blocks.dtype)
    n_threads = min(len(os.sched_getaffinity(0)), MAX_THREADS) if matrices.is_cuda else 1
    norm = torch.where(finite, of_each(_norm, safe, n_threads), nan)
    columns = {"recurrent/largest_singular_value": norm, **bound_columns(network, blocks, norm)}
    # A product of different matrices does not have their eigenvalues, and many would take longer than training.
    if blocks.shape[1] == 1:
        columns["recurrent/spectral_radius"] = torch.where(finite, of_each(_radius, safe, n_threads), nan)
    return columns


def of_each(measure: Callable[[Tensor], Tensor], matrices: Tensor, n_threads: int) -> Tensor:
    """What is measured of each member's matrices ``[K, ...]``, ``[K]``, with so many members at a time.

    torch factorises one matrix after the other, and LAPACK rounds differently where one begins elsewhere in memory: by
    itself a member's begin at the same place, whoever else is in the stack.
    """
    members = [matrices[k : k + 1] for k in range(len(matrices))]
    if n_threads == 1:
        return torch.cat(list(map(measure, members)))
    with ThreadPoolExecutor(n_threads) as threads:
        return torch.cat(list(threads.map(measure, members)))


def _norm(matrices: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.matrix_norm(matrices, ord=2).amax(1)
    return largest


def _radius(matrices: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.eigvals(matrices).abs().amax((1, 2))
    return largest


def _state_columns(network: Network, tape: Tape) -> dict[str, Tensor]:
    slope, size = network.cell.relative_slope(tape.gates), tape.states.abs()
    # Straight into numbers: by way of booleans it takes five times as long.
    saturated = torch.lt(slope, SATURATION_SHARE, out=torch.empty_like(slope))
    return {
        "state/saturation": saturated.flatten(1).mean(1),
        # Of steps before sequences, because that way round it is ten times as fast.
        "state/dead": (size.amax(1).amax(1) == 0).float().mean(1),
        "state/activity": size.flatten(1).mean(1),
    }
