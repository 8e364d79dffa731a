"""A stack: K members of one shape, held in one flat tensor and trained together as one tensor program."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from models import CELLS, FAST_CELLS
from models.dropout import Dropout, Keep, Noise
from models.fused import fuse
from models.kernels.coefficients import CLIP_NORM
from models.network import Network
from study.outcome import Rung
from study.plan import Member, StackPlan
from study.training.feed import Feed
from study.training.loss import loss_and_slope
from study.training.lyapunov import lyapunov_spectrum
from study.training.measure import yardstick
from study.training.omega import omega_penalty
from study.training.probe import Probe, probe
from study.training.recording import Recorder
from study.training.rule import RuleState, apply_update, coefficients, init_rule
from study.training.sparsity import all_lacking
from study.training.start import first_parameters
from study.training.term import terms
from tasks import Batch

PROBE_SEQUENCES = 32
"""Size of the probe batch; a standard error of the mean of about a sixth of the spread over sequences."""

GROUP_ITEMS = 2**20
"""Net inputs of all members, steps and sequences for which a processor holds a tape at a time: some 6 MiB of tape. More
would be slower, because it leaves the caches, and could be more than the machine has.
"""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Training statistics of one member over the updates of one call of ``train``.

    ``loss`` is the mean training loss; ``metrics`` holds gradient norms, update ratios (NaN of what was zero) and Omega
    (NaN where nothing is paid for it) of the last update, the clipped share of all and how many were not finite.
    """

    loss: float
    metrics: dict[str, float]


class Stack:
    """K members of one shape in training.

    All parameters lie in ``flat`` ``[K, P]``, so that clipping, the update rule, compaction and checkpoints are single
    operations; ``weights`` are views of it by name.
    """

    def __init__(
        self, plan: StackPlan, *, members: Sequence[Member] | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """The stack before its first update.

        Args:
            plan: what to train.
            members: those of the plan's members that are held; all by default.
            dtype: float32, or float64 in tests.
        """
        self.plan = plan
        self.members = tuple(plan.members if members is None else members)
        self.n_updates = 0
        self.yardstick = yardstick(plan)
        self.task = self.yardstick.problem
        dropout = Dropout(plan.dropout)
        cell = (FAST_CELLS if dropout is Dropout.FAST else CELLS)[plan.cell]
        self.network = Network(
            cell=fuse(cell.for_length(plan.training.longest_met)),
            dropout=dropout,
            n_in=self.task.n_in,
            n_hidden=plan.n_hidden,
            n_out=self.task.n_out,
        )
        self.feed = Feed(self.task, self.network, plan.training, plan.seed, plan.device)
        self._dtype = dtype
        rows = [first_parameters(self.network, member) for member in self.members]
        self._hold(torch.stack(rows).to(plan.device, dtype))
        self._rule_state = init_rule(self.flat)

    def train(self, n_updates: int) -> list[Interval]:
        """Make updates, and tell what the training of each member looked like."""
        losses = self.flat.new_empty(n_updates, len(self.members), dtype=torch.float64)
        norms = torch.empty_like(losses)
        found: dict[str, Tensor] = {}
        for step, (batch, noise) in enumerate(self.feed.draws(self.n_updates, n_updates, self.members)):
            reported = step == n_updates - 1
            if self._recorder is None:
                found = self._update(batch, noise, reported=reported)
            else:
                found = self._recorder(self._update, batch, noise, reported=reported)
            losses[step], norms[step] = found["loss"], found["gradient/norm"]
            self.n_updates += 1
        found["loss"] = losses.mean(0)
        found["gradient/clipped_fraction"] = (norms > self._clip_norm).double().mean(0)
        found["gradient/nonfinite"] = (~norms.isfinite()).double().sum(0)
        # At once, because every answer of a GPU is waited for.
        table = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
        every_loss = table.pop("loss")
        return [
            Interval(loss=loss, metrics={name: column[k] for name, column in table.items()})
            for k, loss in enumerate(every_loss)
        ]

    def evaluate(
        self, purpose: str, n_sequences: int, indices: Sequence[int], ladder: Sequence[int] | None = None
    ) -> list[tuple[Rung, ...]]:
        """Climb a ladder (default: the study's) with the members at these indices, on sequences named by a purpose."""

        @lru_cache(maxsize=1)
        def chosen(climbing: tuple[int, ...]) -> tuple[dict[str, Tensor], Keep | None]:
            return self._chosen([indices[k] for k in climbing])

        def infer(climbing: Sequence[int], batch: Batch) -> Tensor:
            # Once for all batches of a rung: a GPU is waited for while it takes in who climbs.
            weights, keep = chosen(tuple(climbing))
            return self.network.infer(weights, batch.inputs, keep=keep, n_read=batch.n_read)

        ladder = ladder or self.plan.training.ladder
        return self.yardstick.measure(infer, len(indices), purpose=purpose, ladder=ladder, n_sequences=n_sequences)

    def probe(self) -> list[Probe]:
        """Gradient statistics of every member on the study's probe batch, at the longest training length."""
        batch = self.yardstick.probe_batch(PROBE_SEQUENCES)
        return probe(self.network, self.weights, self._terms.keep, self.task, batch)

    def spectra(self, indices: Sequence[int]) -> list[tuple[float, ...]]:
        """Lyapunov spectra of the members at these indices along the first probe sequence; empty for diverged ones."""
        batch = self.yardstick.probe_batch(PROBE_SEQUENCES)
        weights, keep = self._chosen(indices)
        drive, gain = self.network.drive(weights, batch.inputs[:, :1], keep)
        tape = self.network.cell.forward(self.network.recurrent(weights), drive, gain)
        spectra = lyapunov_spectrum(self.network, weights, keep, tape)
        return [() if bool(spectrum.isnan().any()) else tuple(spectrum.tolist()) for spectrum in spectra]

    def diverged(self) -> list[bool]:
        """Whether each member has a non-finite parameter."""
        finite: list[bool] = self.flat.isfinite().all(dim=1).tolist()
        return [not one for one in finite]

    def compact(self, indices: Sequence[int]) -> None:
        """Go on with the members at these indices only."""
        index = torch.tensor(indices, device=self.flat.device, dtype=torch.int64)
        self.members = tuple(self.members[k] for k in indices)
        self._rule_state = RuleState(
            velocity=self._rule_state.velocity[index],
            square=self._rule_state.square[index],
            n_updates=self._rule_state.n_updates,
        )
        self._hold(self.flat[index])

    def member_weights(self, index: int) -> dict[str, Tensor]:
        """Parameters of one member by name, without the member axis, as copies on the CPU."""
        return {name: tensor[index].detach().cpu().clone() for name, tensor in self.weights.items()}

    def load_weights(self, weights: Sequence[Mapping[str, Tensor]]) -> None:
        """Replace the parameters of every member by those that ``member_weights`` gave."""
        rows = [torch.cat([row[name].flatten() for name in self.network.shapes()]) for row in weights]
        self._hold(torch.stack(rows).to(self.flat))

    def to_bytes(self) -> bytes:
        """All that a restart needs beside the plan."""
        buffer = io.BytesIO()
        torch.save(
            {
                "numbers": [member.number for member in self.members],
                "n_updates": self.n_updates,
                "flat": self.flat.cpu(),
                "velocity": self._rule_state.velocity.cpu(),
                "square": self._rule_state.square.cpu(),
            },
            buffer,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, plan: StackPlan, data: bytes) -> Stack:
        """The stack that ``to_bytes`` wrote, on the plan's device."""
        saved = torch.load(io.BytesIO(data), weights_only=True, map_location=plan.device)
        by_number = {member.number: member for member in plan.members}
        stack = cls(plan, members=[by_number[number] for number in saved["numbers"]], dtype=saved["flat"].dtype)
        stack.n_updates = saved["n_updates"]
        n_updates = torch.full_like(stack._rule_state.n_updates, stack.n_updates)
        stack._rule_state = RuleState(velocity=saved["velocity"], square=saved["square"], n_updates=n_updates)
        stack._hold(saved["flat"])
        return stack

    def _hold(self, flat: Tensor) -> None:
        """Make ``flat`` the parameters, and derive all that hangs on them and on the members."""
        self.flat = flat.contiguous()
        self._splits: dict[str, slice] = {}
        self.weights: dict[str, Tensor] = {}
        start = 0
        for name, shape in self.network.shapes().items():
            end = start + torch.Size(shape).numel()
            self._splits[name] = slice(start, end)
            self.weights[name] = self.flat[:, start:end].view(len(self.members), *shape)
            start = end
        every = [member.hyperparameters for member in self.members]
        self._coefficients = coefficients(every, self.network.shapes(), self.flat.device)
        self._clip_norm = self._coefficients.table[:, CLIP_NORM]
        self._lacking = all_lacking(self.members, self.network.n_hidden, self.flat.device)
        self._terms = terms(self.members, self.network.dropout, self.plan.training.longest, self.flat)
        # What is recorded finds all of this at its place.
        self._recorder = Recorder() if self.flat.is_cuda else None

    def _chosen(self, indices: Sequence[int]) -> tuple[dict[str, Tensor], Keep | None]:
        """Parameters and rates of the members at these indices."""
        index = torch.tensor(indices, device=self.flat.device)
        weights = {name: tensor[index] for name, tensor in self.weights.items()}
        return weights, self._terms.keep and self._terms.keep.of(index)

    def _update(self, batch: Batch, noise: Noise | None, *, reported: bool) -> dict[str, Tensor]:
        """Update the parameters; each member's loss and gradient norm and, if reported, what ``Interval`` tells of it.

        All are ``[K]``, float64.
        """
        loss, gradient, omega = self._loss_and_gradient(batch, noise)
        before = self.flat.clone() if reported else None
        norm = apply_update(self.flat, gradient, self._rule_state, self._coefficients)
        found = {"loss": loss, "gradient/norm": norm}
        if before is not None:
            found |= self._norms(gradient, "gradient/norm") | {"omega": omega}
            moved, size = self._norms(self.flat - before, "update_ratio"), self._norms(before, "update_ratio")
            # A parameter that was still zero has no ratio yet.
            found |= {name: torch.where(size[name] > 0, moved[name] / size[name], torch.nan) for name in moved}
        return {name: one.double() for name, one in found.items()}

    def _loss_and_gradient(self, batch: Batch, noise: Noise | None) -> tuple[Tensor, Tensor, Tensor]:
        """Losses ``[K]``, gradients ``[K, P]`` and Omega ``[K]`` of an update, a group of members after the other."""
        gradient = torch.empty_like(self.flat)
        omega = self.flat.new_full((len(self.members),), torch.nan)
        losses = []
        n_together = self._group_size(batch)
        for first in range(0, len(self.members), n_together):
            group = slice(first, first + n_together)
            some, some_noise = self.feed.part(batch, noise, group)
            weights, own = {name: weight[group] for name, weight in self.weights.items()}, self._terms.of(group)

            def slope(output: Tensor, some: Batch = some, averaged: Tensor | None = own.averaged) -> Tensor:
                loss, slope = loss_and_slope(self.task, some, output, averaged)
                losses.append(loss)
                return slope

            gradients = self.network.gradients(
                weights,
                some.inputs,
                keep=own.keep,
                noise=some_noise,
                n_read=batch.n_read,
                slope=slope,
                moments=own.averaged is not None,
                l1_states=own.l1_states,
                penalty=omega_penalty(own.owed, self.network.cell, weights, omega[group]),
                window=own.window,
            )
            torch.cat([gradients[name].flatten(1) for name in self._splits], dim=1, out=gradient[group])
        if self._lacking is not None:
            gradient[:, self._splits["recurrent"]].masked_fill_(self._lacking, 0)
        return torch.cat(losses), gradient, omega

    def _group_size(self, batch: Batch) -> int:
        if self.flat.is_cuda:
            return len(self.members)
        length, n_sequences = batch.inputs.shape[-2:] if self.task.symbolic else batch.inputs.shape[-3:-1]
        return max(1, GROUP_ITEMS // (length * n_sequences * self.weights["bias"].shape[1]))

    def _norms(self, flat: Tensor, prefix: str) -> dict[str, Tensor]:
        return {f"{prefix}/{name}": flat[:, part].norm(dim=1) for name, part in self._splits.items()}
