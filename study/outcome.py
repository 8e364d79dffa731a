"""What a trial leaves behind: what it measured, and in which state it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution, which bounds a 95 % interval."""

ENOUGH = 1.01
"""A context is enough where the held-out loss is at most so many times the loss at full context."""


class Status(StrEnum):
    """Where a trial is, or how it ended; the values are the words users see."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def settled(self) -> bool:
        """Whether the trial has ended for good."""
        return self not in {Status.WAITING, Status.RUNNING}


@dataclass(frozen=True, kw_only=True, order=True)
class TrialKey:
    """The join key of a trial, the same in the search storage and in the tracking store."""

    study: str
    model: str
    number: int

    def __str__(self) -> str:
        return f"{self.study}/{self.model}/{self.number}"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One value of one metric after ``update`` parameter updates, with the wall clock time it was measured at."""

    name: str
    value: float
    update: int
    time_ms: int


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Mean negative log-likelihood of held-out answers with its standard error, both in nats per answer."""

    mean: float
    standard_error: float

    @property
    def bits(self) -> float:
        """The mean in bits per answer; for text, bits per character."""
        return self.mean / math.log(2)

    @property
    def interval(self) -> tuple[float, float]:
        """Normal 95 % interval of the mean, in nats."""
        return self.mean - Z * self.standard_error, self.mean + Z * self.standard_error


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Result of one evaluation at one sequence length.

    For a data set the length is the context, the largest number of steps of its history that each answer is asked with,
    so is the lag, and every answer is a sequence of its own; ``loss`` is theirs. A task with a lag has no ``loss``.
    """

    length: int
    lag: int
    n_failed: int
    n_sequences: int
    loss: Loss | None = None

    @property
    def error(self) -> float:
        """Share of failed sequences."""
        return self.n_failed / self.n_sequences

    @property
    def solved(self) -> bool:
        """Fewer than 1 % of the sequences are failed."""
        return 100 * self.n_failed < self.n_sequences

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the error."""
        return wilson_interval(self.n_failed, self.n_sequences)


def wilson_interval(n_failed: int, n_sequences: int) -> tuple[float, float]:
    """Wilson 95 % score interval of a proportion.

    ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` with z = 1.959964, ``Z``.

    Args:
        n_failed: number of failures, 0 <= n_failed <= n_sequences.
        n_sequences: number of trials, > 0.

    Returns:
        Lower and upper bound, both in [0, 1].

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209. Differs: nothing.
    """
    p = n_failed / n_sequences
    centre = p + Z * Z / (2 * n_sequences)
    half = Z * math.sqrt(p * (1 - p) / n_sequences + Z * Z / (4 * n_sequences**2))
    scale = 1 + Z * Z / n_sequences
    # At p = 0 and p = 1 the bound is p itself, which rounding would miss.
    return max(0.0, min(p, (centre - half) / scale)), min(1.0, max(p, (centre + half) / scale))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that is known of a trial once it has ended.

    ``rungs`` are the evaluations of the final ladder in increasing length, up to and including the first unsolved one.
    ``confirmed`` is ``best_rung`` measured once more, on sequences that nothing was chosen by: the best of many trials
    is luckier on those that made it the best. Only a trial that can be the best of its model has it, see ``Bracket``.
    On a data set ``rungs`` are all contexts, from 0, the best constant answer; ``confirmed`` is the last of them on the
    test part, and ``dependency_length`` is the effective context length.
    ``error_flow`` is g(k) for k = 1, 2, ... steps before the answer, ``part_flow`` that of each gate, of the carousel
    and of the state; ``lyapunov`` are the Lyapunov exponents, the largest first, in nats per step; ``metrics`` holds
    the last value of every metric.
    ``reason`` is empty, or says why the trial failed.
    """

    status: Status
    dependency_length: int
    skill: float
    diverged: bool
    n_updates: int
    rungs: tuple[Rung, ...] = ()
    confirmed: Rung | None = None
    error_flow: tuple[float, ...] = ()
    part_flow: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    lyapunov: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def by_loss(self) -> bool:
        """Whether the trial was measured by its loss on a data set."""
        return any(rung.loss is not None for rung in self.rungs)

    @property
    def value(self) -> float:
        """The objective: dependency length plus partial credit, in steps; for a data set the credit alone."""
        return self.skill if self.by_loss else self.dependency_length + self.skill

    @property
    def order(self) -> tuple[float, bool]:
        """Sorts the best first; of equal values the one that was measured on its full budget is the safer choice."""
        return -self.value, self.status is Status.PRUNED

    @property
    def best_rung(self) -> Rung | None:
        """The longest solved rung, or else the first unsolved one; for a data set the last; None if there is none."""
        if self.by_loss:
            return self.rungs[-1]
        solved = [rung for rung in self.rungs if rung.solved]
        return solved[-1] if solved else (self.rungs[0] if self.rungs else None)

    @property
    def outline(self) -> Outcome:
        """The outcome without its curves and metrics, which are most of it."""
        return replace(self, error_flow=(), part_flow={}, lyapunov=(), metrics={})

    @property
    def bound_verdict(self) -> str | None:
        """What the bound on the error flow said and what was measured; None where either is missing."""
        vanishing = self.metrics.get("bound/vanishing", math.nan)
        decay_rate = self.metrics.get("gradient/decay_rate", math.nan)
        if math.isnan(vanishing) or math.isnan(decay_rate):
            return None
        said = "predicted vanishing" if vanishing else "left it open"
        return f"the bound {said}, measured: {'vanishing' if decay_rate < 0 else 'not vanishing'}"

    def to_json(self) -> str:
        """Text that ``from_json`` reads back to an equal outcome; non-finite numbers included."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The outcome that ``to_json`` wrote."""
        raw = json.loads(text)
        raw["status"] = Status(raw["status"])
        raw["rungs"] = tuple(map(_rung, raw["rungs"]))
        raw["confirmed"] = raw["confirmed"] and _rung(raw["confirmed"])
        raw["error_flow"], raw["lyapunov"] = tuple(raw["error_flow"]), tuple(raw["lyapunov"])
        raw["part_flow"] = {name: tuple(curve) for name, curve in raw["part_flow"].items()}
        return cls(**raw)


def _rung(raw: Mapping[str, Any]) -> Rung:
    loss = raw.get("loss")
    return Rung(**{**raw, "loss": loss and Loss(**loss)})


Ending = tuple[TrialKey, Outcome, Path | None]
"""A trial that has ended: which one, how, and the file that its weights lie in."""


def failed_outcome(reason: str) -> Outcome:
    """The outcome of a trial that an exception ended: nothing measured, the reason kept."""
    return Outcome(status=Status.FAILED, dependency_length=0, skill=0.0, diverged=False, n_updates=0, reason=reason)
