"""Climbing the ladder: at which sequence lengths the members of a stack solve the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.cell import Weights
from models.network import Keep, Network
from study.outcome import Rung
from tasks import Batch, Task

CHUNK = 250
"""Sequences evaluated at once: a stack's states then stay in cache."""

Draw = Callable[[int, int, int], Batch]
"""Fresh sequences: (length, number of sequences, part) -> batch."""


def climb(
    network: Network,
    weights: Weights,
    keep: Keep | None,
    task: Task,
    *,
    lengths: Sequence[int],
    n_sequences: int,
    draw: Draw,
) -> list[tuple[Rung, ...]]:
    """Evaluate every member at increasing lengths, up to and including the first it does not solve.

    All members meet the same fresh sequences at a length, in chunks of 250 that are drawn by part, so that a rung's
    result depends neither on the other members nor on the ones before.

    Args:
        network: shape of the stack.
        weights: all parameters, leading axis K.
        keep: keep probabilities of fast dropout, or None.
        task: what is evaluated.
        lengths: the ladder, increasing, in time steps.
        n_sequences: sequences per rung.
        draw: where fresh sequences come from.

    Returns:
        For each member the rungs it was evaluated at, in order.

    Source: the definition of "solved" and of the ladder in docs/measures.md. Differs: nothing.
    """
    n_members = next(iter(weights.values())).shape[0]
    rungs: list[list[Rung]] = [[] for _ in range(n_members)]
    climbing = list(range(n_members))
    for length in lengths:
        if not climbing:
            break
        index = torch.tensor(climbing, device=next(iter(weights.values())).device)
        n_failed = _count_failures(
            network, _select(weights, index), _select_keep(keep, index), task, length, n_sequences, draw
        )
        for member, failures in zip(climbing, n_failed, strict=True):
            rungs[member].append(
                Rung(length=length, lag=task.min_lag(length), n_failed=failures, n_sequences=n_sequences)
            )
        climbing = [member for member in climbing if rungs[member][-1].solved]
    return [tuple(member) for member in rungs]


def dependency_length(rungs: Sequence[Rung]) -> int:
    """Guaranteed lag, in steps, of the longest rung that is solved together with all before it; 0 if there is none."""
    longest = 0
    for rung in rungs:
        if not rung.solved:
            break
        longest = rung.lag
    return longest


def skill(rungs: Sequence[Rung], chance_error: float) -> float:
    """Partial credit in [0, 1) at the first unsolved rung: ``1 - error / chance error``, clipped; 0 past the top."""
    unsolved = [rung for rung in rungs if not rung.solved]
    if not unsolved:
        return 0.0
    # An unsolved rung has an error of at least 1 %, so that the credit stays below 1 by itself.
    return max(0.0, 1 - unsolved[0].error / chance_error)


def _count_failures(
    network: Network, weights: Weights, keep: Keep | None, task: Task, length: int, n_sequences: int, draw: Draw
) -> list[int]:
    failures = []
    for part, start in enumerate(range(0, n_sequences, CHUNK)):
        batch = draw(length, min(CHUNK, n_sequences - start), part)
        output = network.infer(weights, batch.inputs, keep=keep, n_read=batch.n_read)
        failures.append(task.failed(batch, output).sum(-1))
    return [int(count) for count in torch.stack(failures).sum(0).tolist()]


def _select(weights: Weights, index: Tensor) -> Weights:
    return {name: tensor.index_select(0, index) for name, tensor in weights.items()}


def _select_keep(keep: Keep | None, index: Tensor) -> Keep | None:
    if keep is None:
        return None
    return Keep(inputs=keep.inputs[index], recurrent=keep.recurrent[index])
