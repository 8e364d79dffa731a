"""What a stack is fed: the batch and the dropout noise of every update, each a pure function of seed and update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from models.dropout import Dropout, Noise, stacked
from models.network import Network
from study.plan import Member, TrainingPlan
from study.seeds import derive, stream
from tasks import Batch, Problem

AHEAD_ITEMS = 2**15
"""Inputs and targets after which no further batch is drawn before its update: 256 KiB of symbols."""


class Feed:
    """Training batches and noise of one study, the same whatever was drawn before: a restart needs no generator state.

    Members that share batches see the same sequences in every stack of the study (common random numbers); members that
    draw their own have streams of their own, so that they are replicates that are independent but for the lengths of
    the sequences, which a stack, and the whole study, has in common.
    """

    def __init__(self, task: Problem, network: Network, training: TrainingPlan, seed: int, device: str) -> None:
        self._task = task
        self._network = network
        self._training = training
        self._seed = seed
        self._device = device

    def length(self, update: int) -> int:
        """Sequence length of an update (counted from 0), uniform between shortest and longest."""
        span = self._training.longest - self._training.shortest + 1
        return self._training.shortest + derive(self._seed, "length", update) % span

    def draws(self, first: int, n_updates: int, members: Sequence[Member]) -> Iterator[tuple[Batch, Noise | None]]:
        """What ``draw`` gives for updates in a row; small batches without noise are drawn several at a time.

        A sampler's many small steps take half as long after one another as after an update, whose passes leave nothing
        of their code in the caches.
        """
        drawn: list[tuple[Batch, Noise | None]] = []
        n_items = 0
        for update in range(first, first + n_updates):
            batch, noise = self.draw(update, members)
            drawn.append((batch, noise))
            n_items += batch.inputs.numel() + batch.targets.numel()
            if noise is not None or n_items >= AHEAD_ITEMS:
                yield from drawn
                drawn, n_items = [], 0
        yield from drawn

    def draw(self, update: int, members: Sequence[Member]) -> tuple[Batch, Noise | None]:
        """Batch and noise of an update; noise is None unless the dropout kind draws masks."""
        length = self.length(update)
        if self._training.batches == "shared":
            batch = self._batch(self._seed, update, length)
            return batch.to(self._device), self._noise(self._seed, update, batch, members)
        batches = [self._batch(member.seed, update, length) for member in members]
        noises = [
            self._noise(member.seed, update, batch, members) for member, batch in zip(members, batches, strict=True)
        ]
        batch = Batch(
            inputs=torch.stack([one.inputs for one in batches]), targets=torch.stack([one.targets for one in batches])
        )
        return batch.to(self._device), stacked([noise for noise in noises if noise is not None])

    def part(self, batch: Batch, noise: Noise | None, members: slice) -> tuple[Batch, Noise | None]:
        """What ``draw`` gave, for some of its members only."""
        if self._training.batches == "shared":
            return batch, noise
        part = Batch(inputs=batch.inputs[members], targets=batch.targets[members])
        return part, noise and noise.of(members)

    def _batch(self, seed: int, update: int, length: int) -> Batch:
        # By the processor also for a GPU, for which a sampler's many small steps would be as many launches.
        return self._task.sample(stream(seed, "batch", update), self._training.batch_size, length)

    def _noise(self, seed: int, update: int, batch: Batch, members: Sequence[Member]) -> Noise | None:
        """Numbers for one batch: those that none of the members reads are not drawn."""
        if self._network.dropout is not Dropout.DROPOUT:
            return None
        n_sequences, n_hidden = self._training.batch_size, self._network.n_hidden
        every = [member.hyperparameters for member in members]

        def uniform(*shape: int, generator: Generator) -> Tensor:
            return torch.rand(shape, generator=generator, device=self._device)

        def alone(purpose: str, *shape: int) -> Tensor:
            generator = stream(seed, "dropout", update, purpose, device=self._device)
            return uniform(*shape, generator=generator)

        generator, symbolic = stream(seed, "dropout", update, device=self._device), self._task.symbolic
        steps = (self.length(update), n_sequences)
        dropping = any(one.p_drop_output > 0 for one in every)
        holding = symbolic and any(one.dropout_masks == "sequence" for one in every)
        return Noise(
            inputs=uniform(*steps, 1 if symbolic else self._network.n_in, generator=generator),
            recurrent=uniform(*steps, n_hidden, generator=generator),
            outputs=alone("outputs", batch.n_read, n_sequences, n_hidden) if dropping else None,
            symbols=alone("symbols", n_sequences, self._network.n_in) if holding else None,
        )
