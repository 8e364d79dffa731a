"""Contexts: how well the members of a stack predict real data, and how much of the past they need for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from study.outcome import ENOUGH, Loss, Rung
from study.plan import TrainingPlan
from study.seeds import stream
from study.training.yardstick import CHUNK, Infer, Score, Yardstick
from tasks import Batch, Dataset
from tasks.dataset import Split

CONFIRMING = frozenset({"confirmed", "again"})
"""Purposes by which nothing is chosen any more: they are measured on the test part, all others on the valid part."""


class Contexts(Yardstick):
    """Measures a data set: the same held-out answers at each context, asked from the zero state with so many steps.

    The ladder is a list of contexts c: an answer is asked with the last c steps of its history, or with all of it where
    that is shorter. The last context is the full one. Context 0, put before the others, is the best constant answer.
    Answers are drawn by purpose, without replacement: all of the part where it has no more than are asked for.
    """

    def __init__(self, dataset: Dataset, training: TrainingPlan, seed: int, device: str) -> None:
        self.problem = self._dataset = dataset
        self._training, self._seed, self._device = training, seed, device

    def measure(
        self, infer: Infer, n_members: int, *, purpose: str, ladder: Sequence[int], n_sequences: int
    ) -> list[tuple[Rung, ...]]:
        """Losses and wrong answers of each member at context 0 and at every context of the ladder."""
        if n_members == 0:
            return []
        split: Split = "test" if purpose.partition("/")[0] in CONFIRMING else "valid"
        histories = self._dataset.histories(split)
        answers = self._chosen(purpose, torch.arange(len(histories)), n_sequences)
        constant = self._dataset.constant().to(self._device)

        def guess(batch: Batch) -> Tensor:
            return constant.expand(n_members, 1, batch.targets.shape[1], -1)

        def ask(batch: Batch) -> Tensor:
            return infer(range(n_members), batch)

        # A guess needs no history, but a batch has at least one step.
        columns = [self._rungs(guess, 0, split, answers, torch.ones_like(answers))]
        for context in ladder:
            columns.append(self._rungs(ask, context, split, answers, histories[answers].clamp(max=context)))
        return list(zip(*columns, strict=True))

    def score(self, rungs: Sequence[Rung]) -> Score:
        """Effective context length, and the share of the constant answer's loss that the network saves.

        ``min {c: L(c) <= 1.01 L(C)}`` over the contexts c from 0 on, with L the held-out loss and C the full context;
        ``max(0, 1 - L(C) / L(0))``.

        Source: docs/measures.md, "Real data". Differs: nothing.
        """
        losses = {rung.length: rung.loss.mean for rung in rungs if rung.loss is not None}
        full = losses[rungs[-1].length]
        return Score(
            dependency_length=min(context for context, loss in losses.items() if loss <= ENOUGH * full),
            skill=max(0.0, 1 - full / losses[0]),
            complete=False,
        )

    def probe_batch(self, n_sequences: int) -> Batch:
        """Held-out answers with the longest training length before them, or the longest history that there is."""
        histories = self._dataset.histories("valid")
        length = min(self._training.longest, int(histories.max()))
        answers = self._chosen("probe", torch.nonzero(histories >= length)[:, 0], n_sequences)
        return self._dataset.excerpt("valid", answers, length).to(self._device)

    def _chosen(self, purpose: str, answers: Tensor, n: int) -> Tensor:
        return answers[torch.randperm(len(answers), generator=stream(self._seed, "evaluation", purpose))[:n]]

    def _rungs(
        self, output: Callable[[Batch], Tensor], context: int, split: Split, answers: Tensor, lengths: Tensor
    ) -> list[Rung]:
        """The rung of every member at a context, where each answer is asked with so many steps."""
        losses, wrong = [], []
        for length in sorted(set(lengths.tolist())):
            for some in torch.split(answers[lengths == length], CHUNK):
                batch = self._dataset.excerpt(split, some, length).to(self._device)
                given = output(batch)
                losses.append(self._dataset.likelihood.losses(given, batch.targets)[:, 0])
                wrong.append(self._dataset.likelihood.wrong(given, batch.targets)[:, 0])
        by_member = zip(torch.cat(losses, dim=1).double(), torch.cat(wrong, dim=1), strict=True)
        return [_rung(context, *one) for one in by_member]


def _rung(context: int, losses: Tensor, wrong: Tensor) -> Rung:
    """A member's rung from the losses and the verdicts on its answers, each ``[N]``."""
    n = len(losses)
    mean, error = float(losses.mean()), float(losses.std() / n**0.5) if n > 1 else math.inf
    # What is no number has learned nothing.
    loss = Loss(mean=mean, standard_error=error) if math.isfinite(mean) else Loss(mean=math.inf, standard_error=0.0)
    return Rung(length=context, lag=context, n_failed=int(wrong.sum()), n_sequences=n, loss=loss)
