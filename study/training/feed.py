"""What a stack is fed: the batch and the dropout noise of every update, each a pure function of seed and update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.network import Dropout, Network, Noise
from study.plan import Member, TrainingPlan
from study.seeds import derive, stream
from tasks import Batch, Problem


class Feed:
    """Training batches and noise of one study, the same whatever was drawn before: a restart needs no generator state.

    Members that share batches see the same sequences in every stack of the study (common random numbers); members that
    draw their own have streams of their own, so that they are independent replicates.
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

    def draw(self, update: int, members: Sequence[Member]) -> tuple[Batch, Noise | None]:
        """Batch and noise of an update; noise is None unless the dropout kind draws masks."""
        length = self.length(update)
        if self._training.batches == "shared":
            return self._batch(self._seed, update, length), self._noise(self._seed, update, length)
        batches = [self._batch(member.seed, update, length) for member in members]
        noises = [self._noise(member.seed, update, length) for member in members]
        batch = Batch(
            inputs=torch.stack([one.inputs for one in batches]), targets=torch.stack([one.targets for one in batches])
        )
        present = [noise for noise in noises if noise is not None]
        if not present:
            return batch, None
        return batch, Noise(
            inputs=torch.stack([one.inputs for one in present]),
            recurrent=torch.stack([one.recurrent for one in present]),
        )

    def part(self, batch: Batch, noise: Noise | None, members: slice) -> tuple[Batch, Noise | None]:
        """What ``draw`` gave, for some of its members only."""
        if self._training.batches == "shared":
            return batch, noise
        part = Batch(inputs=batch.inputs[members], targets=batch.targets[members])
        return part, noise and Noise(inputs=noise.inputs[members], recurrent=noise.recurrent[members])

    def _batch(self, seed: int, update: int, length: int) -> Batch:
        generator = stream(seed, "batch", update, device=self._device)
        return self._task.sample(generator, self._training.batch_size, length)

    def _noise(self, seed: int, update: int, length: int) -> Noise | None:
        if self._network.dropout is not Dropout.DROPOUT:
            return None
        generator = stream(seed, "dropout", update, device=self._device)

        def uniform(n_features: int) -> Tensor:
            shape = (length, self._training.batch_size, n_features)
            return torch.rand(shape, generator=generator, device=self._device)

        n_droppable = 1 if self._task.symbolic else self._network.n_in
        return Noise(inputs=uniform(n_droppable), recurrent=uniform(self._network.n_hidden))
