"""Climbing the ladder: at which sequence lengths the members of a stack solve the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from study.outcome import Rung
from study.plan import TrainingPlan
from study.training.draw import StreamDraws, keys
from study.training.yardstick import CHUNK, Infer, Score, Yardstick
from tasks import Batch, Task

Draw = Callable[[int, int, int], Batch]
"""Fresh sequences: (length, number of sequences, part) -> batch."""


class Ladder(Yardstick):
    """Measures a task with a lag: sequences that were never drawn before, of increasing lengths."""

    def __init__(self, task: Task, training: TrainingPlan, seed: int, device: str) -> None:
        self.problem = self._task = task
        self._training, self._seed, self._device = training, seed, device

    def measure(
        self, infer: Infer, n_members: int, *, purpose: str, ladder: Sequence[int], n_sequences: int
    ) -> list[tuple[Rung, ...]]:
        """See ``climb``."""
        return climb(
            infer,
            n_members,
            self._task,
            ladder=ladder,
            shortest=self._training.shortest,
            n_sequences=n_sequences,
            draw=lambda length, n, part: self._draw(purpose, length, n, part),
        )

    def score(self, rungs: Sequence[Rung]) -> Score:
        """Dependency length learned, and credit for the first unsolved rung; complete where all are solved."""
        shortest = self._training.shortest
        return Score(
            dependency_length=dependency_length(rungs, shortest),
            skill=skill(rungs, shortest, self._task.chance_error()),
            complete=solves_all(rungs, self._training.ladder, shortest),
        )

    def probe_batch(self, n_sequences: int) -> Batch:
        """Fresh sequences."""
        return self._draw("probe", self._training.longest, n_sequences, 0)

    def _draw(self, purpose: str, length: int, n_sequences: int, part: int) -> Batch:
        """Fresh sequences that no update sees, on all devices the same; purpose and part name independent draws."""
        stream = keys((self._seed,), "evaluation", purpose, length)
        return self._task.sample(StreamDraws(stream, part, n_sequences), length).to(self._device)


def climb(
    infer: Infer,
    n_members: int,
    task: Task,
    *,
    ladder: Sequence[int],
    shortest: int,
    n_sequences: int,
    draw: Draw,
) -> list[tuple[Rung, ...]]:
    """Evaluate every member at increasing lengths, up to and including the first it does not solve.

    All members meet the same fresh sequences at a length, in chunks of 250 that are drawn by part, so that a rung's
    result depends neither on the other members nor on the ones before.

    Args:
        infer: what the members answer.
        n_members: number of members.
        task: what is evaluated.
        ladder: increasing sequence lengths, in time steps.
        shortest: shortest training length; an unsolved rung below it does not end the climb.
        n_sequences: sequences per rung.
        draw: where fresh sequences come from.

    Returns:
        For each member the rungs it was evaluated at, in order.

    Source: the definition of "solved" and of the ladder in docs/measures.md. Differs: nothing.
    """
    rungs: list[list[Rung]] = [[] for _ in range(n_members)]
    climbing = list(range(n_members))
    for length in ladder:
        if not climbing:
            break
        failures = []
        for part, start in enumerate(range(0, n_sequences, CHUNK)):
            batch = draw(length, min(CHUNK, n_sequences - start), part)
            failures.append(task.failed(batch, infer(climbing, batch)).sum(-1))
        lag = task.min_lag(length)
        for member, n_failed in zip(climbing, torch.stack(failures).sum(0).tolist(), strict=True):
            rungs[member].append(Rung(length=length, lag=lag, n_failed=int(n_failed), n_sequences=n_sequences))
        climbing = [member for member in climbing if rungs[member][-1].solved or length < shortest]
    return [tuple(member) for member in rungs]


def dependency_length(rungs: Sequence[Rung], shortest: int) -> int:
    """Guaranteed lag of the longest rung that is solved, as are all below it from ``shortest`` on; 0 if there is none.

    Both in time steps. Source: docs/measures.md, "Dependency length learned". Differs: nothing.
    """
    longest = 0
    for rung in rungs:
        if rung.solved:
            longest = rung.lag
        elif rung.length >= shortest:
            break
    return longest


def skill(rungs: Sequence[Rung], shortest: int, chance_error: float) -> float:
    """Partial credit in [0, 1) at the first unsolved rung: ``1 - error / chance error``, clipped; 0 past the top.

    Source: docs/measures.md, "Dependency length learned". Differs: nothing.
    """
    unsolved = [rung for rung in rungs if not rung.solved and rung.length >= shortest]
    if not unsolved:
        return 0.0
    # An unsolved rung has an error of at least 1 %, so that the credit stays below 1 by itself.
    return max(0.0, 1 - unsolved[0].error / chance_error)


def solves_all(rungs: Sequence[Rung], ladder: Sequence[int], shortest: int) -> bool:
    """Whether the whole ladder is solved, from ``shortest`` on."""
    return len(rungs) == len(ladder) and all(rung.solved for rung in rungs if rung.length >= shortest)
