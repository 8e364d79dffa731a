"""What a stack is fed: the batch and the dropout noise of every update, each a pure function of seed and update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from models import philox
from models.dropout import Dropout, Noise
from models.network import Network
from study.plan import Member, TrainingPlan
from study.seeds import derive
from study.training.draw import StreamDraws, keys
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
        # By the processor also for a GPU, for which a sampler's many small steps would be as many launches.
        stream = self._keys(members, "batch")
        batch = self._task.sample(StreamDraws(stream, update, self._training.batch_size), length)
        if self._own:
            inputs, targets = (_of_members(one, len(members)) for one in (batch.inputs, batch.targets))
            batch = Batch(inputs=inputs, targets=targets)
        return batch.to(self._device), self._noise(update, batch.n_read, members)

    def part(self, batch: Batch, noise: Noise | None, members: slice) -> tuple[Batch, Noise | None]:
        """What ``draw`` gave, for some of its members only."""
        if not self._own:
            return batch, noise
        part = Batch(inputs=batch.inputs[members], targets=batch.targets[members])
        return part, noise and noise.of(members)

    @property
    def _own(self) -> bool:
        return self._training.batches == "own"

    def _keys(self, members: Sequence[Member], purpose: str, device: str = "cpu") -> Tensor:
        """Streams of the members, or the study's where they share it."""
        seeds = tuple(member.seed for member in members) if self._own else (self._seed,)
        return keys(seeds, purpose, device=device)

    def _noise(self, update: int, n_read: int, members: Sequence[Member]) -> Noise | None:
        """Numbers for an update's masks: those that none of the members reads are not drawn."""
        if self._network.dropout is not Dropout.DROPOUT:
            return None
        stream = self._keys(members, "dropout", device=self._device)
        length, n_sequences = self.length(update), self._training.batch_size
        every, symbolic = [member.hyperparameters for member in members], self._task.symbolic

        def uniform(call: int, *shape: int) -> Tensor:
            found = philox.uniform(stream, update, call, *shape)
            return found if self._own else found[0]

        dropping = any(one.p_drop_output > 0 for one in every)
        holding = symbolic and any(one.dropout_masks == "sequence" for one in every)
        return Noise(
            inputs=uniform(0, length, n_sequences, 1 if symbolic else self._network.n_in),
            recurrent=uniform(1, length, n_sequences, self._network.n_hidden),
            outputs=uniform(2, n_read, n_sequences, self._network.n_hidden) if dropping else None,
            symbols=uniform(3, n_sequences, self._network.n_in) if holding else None,
        )


def _of_members(tensor: Tensor, n_members: int) -> Tensor:
    """Sequences ``[T, K * B, ...]`` of all members by member, ``[K, T, B, ...]``."""
    steps, _, *shape = tensor.shape
    return tensor.reshape(steps, n_members, -1, *shape).transpose(0, 1).contiguous()
