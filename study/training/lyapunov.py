"""Lyapunov exponents along trajectories: the largest at every probe, the whole spectrum once per member."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from models.cell import State, Tape, Weights
from models.dropout import Keep
from models.network import Network
from study.seeds import stream

N_TANGENTS = 8
"""Sequences whose tangents are followed: each is a mean over all steps already, and they cost as much as the rest."""

STEPS_BETWEEN = 3
"""Steps from one orthonormalisation to the next. One costs three steps of an LSTM, and in double precision directions
stay apart that grow by up to ln(1e14) / 3 = 10 nats per step differently: trained networks of 50 units spread over 9.
"""


@torch.no_grad()
def lyapunov_exponent(network: Network, weights: Weights, keep: Keep | None, tape: Tape) -> Tensor:
    """Mean growth of a random tangent vector along the probe's trajectories, in nats per step.

    ``(1/T) sum_t ln |J_t u_t| / |u_t|`` with ``u_{t+1} = J_t u_t / |J_t u_t|`` and J_t the Jacobian of the whole state
    (for LSTM the pair h, c; for fast dropout mean and variance), averaged over the first ``N_TANGENTS`` sequences.

    Returns:
        One number per member, ``[K]``; -inf where the tangent vector dies out, NaN where states are not finite.

    Source: Benettin et al. 1980, Meccanica 15:9, the largest exponent. Differs: finite T, no transient is left out.
    """
    recurrent, gain = network.recurrent(weights), network.gain(keep)
    start = network.cell.start(tape.states[:, 0, :N_TANGENTS])
    generator = stream(0, "lyapunov")
    tangent: State = tuple(
        torch.randn(part.shape[1:], generator=generator, dtype=part.dtype).to(part.device).expand_as(part)
        for part in start
    )
    growth = torch.zeros(start[0].shape[:2], dtype=torch.float64, device=start[0].device)
    length = tape.states.shape[1]
    tangent, _ = _normalised(tangent)
    for t in range(length):
        tangent, norm = _normalised(network.cell.tangent(recurrent, tape, t, tangent, gain))
        # One after the other: a mean over all steps at once is rounded by how many members there are.
        growth += norm.double().log()
    return torch.where(finite_states(tape), growth.mean(1) / length, torch.nan)


@torch.no_grad()
def lyapunov_spectrum(network: Network, weights: Weights, keep: Keep | None, tape: Tape) -> Tensor:
    """All Lyapunov exponents along the trajectory of the tape's first sequence, in nats per step.

    ``lambda_i = (1/T) sum_n ln R_n[i,i]`` with ``Q_n R_n = J ... J Q_{n-1}``, the product of the Jacobians of the
    ``STEPS_BETWEEN`` steps since the last factorisation, and Q_0 = 1. The state is the whole one, S numbers: n_hidden,
    or twice that for LSTM (h, c) and fast dropout (mean, variance).

    Args:
        network: shape of the stack.
        weights: all parameters, leading axis K.
        keep: keep probabilities, or None without dropout.
        tape: of a noiseless pass forward.

    Returns:
        ``[K, S]`` on the CPU, the largest first; -inf for directions that die out, NaN where states are not finite.
        The sum is the mean of ln |det J_t|.

    Source: Benettin et al. 1980, Meccanica 15:9; Shimada & Nagashima 1979, Prog. Theor. Phys. 61:1605. Differs: finite
    T, no transient is left out; QR factors for their Gram-Schmidt; what grows by a factor below rounding, relative to
    the largest, counts as dead.
    """
    recurrent = {name: weight.double() for name, weight in network.recurrent(weights).items()}
    gain = network.gain(keep)
    gain = None if gain is None else gain.double()
    sizes = [part.shape[-1] for part in network.cell.start(tape.states[:, 0, :1])]
    tape = _repeated(tape, sum(sizes))
    n_members, length = tape.states.shape[:2]
    basis = torch.eye(sum(sizes), dtype=torch.float64, device=tape.states.device).expand(n_members, -1, -1)
    growth = basis.new_zeros(basis.shape[:2])
    for t in range(length):
        # Tangents are rows, as states are.
        basis = torch.cat(network.cell.tangent(recurrent, tape, t, torch.split(basis, sizes, dim=-1), gain), dim=-1)
        if (t + 1) % STEPS_BETWEEN == 0 or t + 1 == length:
            columns, scale = _factors(basis.mT)
            basis = columns.mT
            rounding = sum(sizes) * torch.finfo(scale.dtype).eps * scale.amax(-1, keepdim=True)
            growth += torch.where(scale <= rounding, 0, scale).log()
    spectrum = growth.sort(dim=-1, descending=True).values / length
    return torch.where(finite_states(tape)[:, None], spectrum, torch.nan).cpu()


def finite_states(tape: Tape) -> Tensor:
    """Whether the states of each member are finite at all steps, ``[K]``.

    Where they are not, slopes say nothing: a rectifier's is 0 at NaN, as if errors and tangents had died out there.
    """
    # Both ends show it, NaN included, and are found fifteen times as fast as what is not finite.
    states = tape.states.flatten(1)
    return states.amax(1).isfinite() & states.amin(1).isfinite()


def spectrum_metrics(spectrum: Sequence[float]) -> dict[str, float]:
    """Sum and Kaplan-Yorke dimension of a Lyapunov spectrum.

    ``lyapunov/sum`` is the mean growth of volumes in nats per step; ``lyapunov/kaplan_yorke`` is
    ``D = j + (lambda_1 + ... + lambda_j) / |lambda_{j+1}|`` with j the largest number of exponents whose sum is not
    negative: 0 where all are negative, all where none of the sums is.

    Args:
        spectrum: exponents, the largest first; may be empty.

    Returns:
        The two numbers by name; none for an empty spectrum.

    Source: Kaplan & Yorke 1979, Lecture Notes in Mathematics 730:204. Differs: nothing.
    """
    if not spectrum:
        return {}
    sums = list(accumulate(spectrum))
    n_kept = max((n for n, total in enumerate(sums, start=1) if total >= 0), default=0)
    dimension = float(n_kept)
    if 0 < n_kept < len(spectrum):
        dimension += sums[n_kept - 1] / -spectrum[n_kept]
    return {"lyapunov/sum": sums[-1], "lyapunov/kaplan_yorke": dimension}


def _factors(matrices: Tensor) -> tuple[Tensor, Tensor]:
    if matrices.is_cuda:
        return factors_by_reflections(matrices)
    factors = torch.linalg.qr(matrices)
    return factors.Q, factors.R.diagonal(dim1=-2, dim2=-1).abs()


def factors_by_reflections(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The factors Q of square matrices ``[K, S, S]`` = Q R, and ``|R[i,i]|``, ``[K, S]``, all members at once on a GPU.

    There torch finds the reflections ``1 - tau_i v_i v_i^T`` of all matrices together, but multiplies them out for one
    matrix after the other. With the v_i as the columns of V, ``Q = 1 - V T V^T``, where ``T^-1`` is the upper triangle
    of ``V^T V`` with ``1 / tau_i`` on its diagonal.

    Source: Joffrain et al. 2006, ACM TOMS 32:169, the UT transform. Differs: nothing.
    """
    packed, tau = torch.geqrf(matrices)
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    # What needs no reflection has tau = 0.
    reflects = tau != 0
    vectors = (packed.tril(-1) + eye) * reflects.unsqueeze(-2)
    triangle = (vectors.mT @ vectors).triu(1) + torch.diag_embed(torch.where(reflects, 1 / tau, 1))
    q = eye - vectors @ torch.linalg.solve_triangular(triangle, vectors.mT, upper=True)
    return q, packed.diagonal(dim1=-2, dim2=-1).abs()


def _repeated(tape: Tape, n: int) -> Tape:
    """The first sequence n times, in double precision: for n tangents along one trajectory."""

    def repeat(part: Tensor) -> Tensor:
        return part[:, :, :1].double().expand(-1, -1, n, *part.shape[3:])

    saved = tuple(map(repeat, tape.saved))
    return Tape(drive=tape.drive, states=repeat(tape.states), gates=repeat(tape.gates), saved=saved)


def _normalised(tangent: State) -> tuple[State, Tensor]:
    norm = (tangent[0] if len(tangent) == 1 else torch.cat(tangent, dim=-1)).norm(dim=-1)
    # A dead tangent stays zero instead of becoming NaN; its logarithm already says -inf.
    scale = torch.where(norm > 0, norm, 1)[..., None]
    return tuple(part / scale for part in tangent), norm
