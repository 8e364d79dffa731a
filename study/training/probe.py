"""Gradient statistics: the error flow of every member on a probe batch, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.cell import State, Tape, Weights
from models.network import Keep, Network
from study.seeds import stream
from tasks import Batch, Problem

HORIZON_SHARE = 1e-3
"""The horizon is the largest k at which the error flow is still this share of g(1)."""

SATURATION_SHARE = 0.05
"""A unit is saturated where its slope is below this share of its largest slope."""

N_TANGENTS = 8
"""Sequences whose tangents are followed: each is a mean over all steps already, and they cost as much as the rest."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Statistics of one member: g(k) for k = 1, 2, ... steps before the answer, and scalars by name."""

    error_flow: tuple[float, ...]
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
        One probe per member.

    Source: Hochreiter 1991; Hochreiter et al. 2001, section 2. Differs: nothing.
    """
    n_sequences = batch.targets.shape[1]

    def slope(output: Tensor) -> Tensor:
        # The loss is a mean over sequences; times B it is each sequence's own.
        return task.loss_and_slope(batch, output)[1] * n_sequences

    tape, flow = network.flow(weights, batch.inputs, keep=keep, n_read=batch.n_read, slope=slope)
    curves = {"net": error_flow(flow.net)}
    if flow.carousel is not None:
        curves["carousel"] = error_flow(flow.carousel)
    columns = {**_recurrent_columns(network, weights), **_state_columns(network, tape)}
    columns["lyapunov/max"] = lyapunov_exponent(network, weights, keep, tape)
    scalars = {name: column.tolist() for name, column in columns.items()}
    probes = []
    for k in range(curves["net"].shape[0]):
        flow_of_member = tuple(curves["net"][k, 1:].tolist())
        metrics = {name: column[k] for name, column in scalars.items()} | flow_metrics(flow_of_member, "gradient")
        if "carousel" in curves:
            metrics |= flow_metrics(tuple(curves["carousel"][k, 1:].tolist()), "gradient/carousel")
        probes.append(Probe(error_flow=flow_of_member, metrics=metrics))
    return probes


def error_flow(delta: Tensor) -> Tensor:
    """``g(k) = sqrt(mean_b |delta_{T-1-k,b}|^2)`` for k = 0 ... T-1.

    Args:
        delta: error signals ``[K, T, B, F]`` of a loss read at the last step.

    Returns:
        ``[K, T]``, the step of the answer (k = 0) first. The sum of squares is taken in float64, where float32's
        smallest error signals still have a square.

    Source: docs/measures.md, "Error flow". Differs: nothing.
    """
    return delta.double().square().sum(-1).mean(-1).sqrt().flip(1)


def flow_metrics(curve: Sequence[float], prefix: str) -> dict[str, float]:
    """Decay rate, half-life and horizon of an error flow curve.

    ``decay_rate`` is the least-squares slope of ln g(k) over k, in nats per step, over the k at which g is positive and
    finite (-inf where fewer than two are); ``half_life`` is ln 2 / -decay_rate in steps, infinite without decay;
    ``horizon`` is the largest k with g(k) >= 1e-3 g(1), 0 where g(1) is not positive.

    Args:
        curve: g(1), g(2), ...
        prefix: put before each name, with a slash.

    Returns:
        The three numbers by name.

    Source: docs/measures.md, "Error flow". Differs: nothing.
    """
    points = [(k, math.log(g)) for k, g in enumerate(curve, start=1) if 0 < g < math.inf]
    rate = -math.inf
    if len(points) >= 2:
        mean_k = sum(k for k, _ in points) / len(points)
        mean_g = sum(g for _, g in points) / len(points)
        rate = sum((k - mean_k) * (g - mean_g) for k, g in points) / sum((k - mean_k) ** 2 for k, _ in points)
    half_life = math.inf if rate >= 0 else (0.0 if rate == -math.inf else math.log(2) / -rate)
    above = [k for k, g in enumerate(curve, start=1) if curve[0] > 0 and g >= HORIZON_SHARE * curve[0]]
    return {f"{prefix}/decay_rate": rate, f"{prefix}/half_life": half_life, f"{prefix}/horizon": max(above, default=0)}


@torch.no_grad()
def lyapunov_exponent(network: Network, weights: Weights, keep: Keep | None, tape: Tape) -> Tensor:
    """Mean growth of a random tangent vector along the probe's trajectories, in nats per step.

    ``(1/T) sum_t ln |J_t u_t| / |u_t|`` with ``u_{t+1} = J_t u_t / |J_t u_t|`` and J_t the Jacobian of the whole state
    (for LSTM the pair h, c; for fast dropout mean and variance), averaged over the first ``N_TANGENTS`` sequences.

    Returns:
        One number per member, ``[K]``; -inf where the tangent vector dies out.

    Source: Benettin et al. 1980, Meccanica 15:9, the largest exponent. Differs: finite T, no transient is left out.
    """
    recurrent, gain = network.recurrent(weights), network.gain(keep)
    start: State = network.cell.start((tape.activations[:, 0, :N_TANGENTS],))
    generator = stream(0, "lyapunov", device=str(start[0].device))
    tangent: State = tuple(
        torch.randn(part.shape[1:], generator=generator, device=part.device, dtype=part.dtype).expand_as(part)
        for part in start
    )
    growth = torch.zeros(start[0].shape[:2], dtype=torch.float64, device=start[0].device)
    length = tape.states.shape[1]
    tangent, _ = _normalised(tangent)
    for t in range(length):
        tangent, norm = _normalised(network.cell.tangent(recurrent, tape, t, tangent, gain))
        growth += norm.double().log()
    return growth.mean(1) / length


def _normalised(tangent: State) -> tuple[State, Tensor]:
    norm = torch.cat(tangent, dim=-1).norm(dim=-1)
    # A dead tangent stays zero instead of becoming NaN; its logarithm already says -inf.
    scale = torch.where(norm > 0, norm, 1)[..., None]
    return tuple(part / scale for part in tangent), norm


def _recurrent_columns(network: Network, weights: Weights) -> dict[str, Tensor]:
    matrix = weights["recurrent"]
    start = network.cell.candidate_gate * network.n_hidden
    block = matrix[:, :, start : start + network.n_hidden]
    # LAPACK refuses non-finite input; a diverged member's spectrum is reported as NaN.
    finite = block.isfinite().flatten(1).all(1)
    safe = torch.where(finite[:, None, None], block, 0)
    nan = torch.full_like(finite, torch.nan, dtype=block.dtype)
    radius = torch.linalg.eigvals(safe).abs().amax(-1)
    singular = torch.linalg.matrix_norm(safe, ord=2)
    return {
        "recurrent/spectral_radius": torch.where(finite, radius, nan),
        "recurrent/largest_singular_value": torch.where(finite, singular, nan),
    }


def _state_columns(network: Network, tape: Tape) -> dict[str, Tensor]:
    slope = network.cell.relative_slope(tape.activations)
    return {
        "state/saturation": (slope < SATURATION_SHARE).float().flatten(1).mean(1),
        "state/dead": (tape.states == 0).all(dim=2).all(dim=1).float().mean(1),
        "state/activity": tape.states.abs().flatten(1).mean(1),
    }
