"""The life of a stack: train, probe, climb, prune at rungs, until every member has left with its outcome."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from study.outcome import Metric, Outcome, Rung, Status
from study.plan import StackPlan
from study.training.lyapunov import spectrum_metrics
from study.training.probe import Probe
from study.training.stack import Stack
from study.training.watch import Watch

Place = tuple[float, bool, int]
"""An outcome's order and its trial's number: which of two trials is the better one."""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """A member that has left the stack: its Optuna number, its outcome and its parameters."""

    number: int
    outcome: Outcome
    weights: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What one call of ``Bracket.advance`` brought: metrics by trial number, seconds by what they were spent on."""

    n_updates: int
    n_member_updates: int
    seconds: dict[str, float]
    metrics: dict[int, list[Metric]]
    departures: list[Departure]


class Bracket:
    """A stack under successive halving; every decision is local to it and a pure function of its plan.

    At each rung the share ``keep`` of the members goes on, ranked by the objective on ``n_interim`` fresh sequences. A
    member whose parameters are not finite, which ranks last, or that solves the whole ladder leaves at once. Whoever
    leaves is measured on ``n_final`` fresh sequences, which decide its objective. Who leaves as the best of the stack
    so far, and so also the best of the model, is measured at one length on as many more, which decide nothing.

    Source: Jamieson & Talwalkar 2016 (successive halving). Differs: one bracket, members may leave early.
    """

    def __init__(self, plan: StackPlan, stack: Stack | None = None, best: Place | None = None) -> None:
        """A bracket before its first update, or around a stack that goes on and the best that has left it."""
        self.plan = plan
        self.stack = Stack(plan) if stack is None else stack
        self._best = best

    def to_bytes(self) -> bytes:
        """All that a restart needs beside the plan."""
        return json.dumps(self._best).encode() + b"\n" + self.stack.to_bytes()

    @classmethod
    def from_bytes(cls, plan: StackPlan, data: bytes) -> Bracket:
        """The bracket that ``to_bytes`` wrote."""
        best, _, stack = data.partition(b"\n")
        place = json.loads(best)
        return cls(plan, Stack.from_bytes(plan, stack), None if place is None else tuple(place))

    @property
    def done(self) -> bool:
        """Whether every member has left."""
        return not self.stack.members

    def advance(self) -> Progress:
        """Train to the next report, measure, and let go who has to leave; the first call also measures the start."""
        watch = Watch()
        first = self._start() if self.stack.n_updates == 0 else {}
        watch.lap("error_flow")
        n_updates = self._next_stop() - self.stack.n_updates
        n_members = len(self.stack.members)
        intervals = self.stack.train(n_updates)
        watch.lap("training")
        probes = self.stack.probe()
        watch.lap("error_flow")
        metrics = {
            member.number: {"loss": interval.loss, **interval.metrics, **one.metrics}
            for member, interval, one in zip(self.stack.members, intervals, probes, strict=True)
        }
        departures = self._depart(metrics, probes)
        watch.lap("evaluation")
        at = self.stack.n_updates
        return Progress(
            n_updates=at,
            n_member_updates=n_updates * n_members,
            seconds=dict(watch.seconds),
            metrics={number: first.get(number, []) + _rows(row, at) for number, row in metrics.items()},
            departures=departures,
        )

    def _start(self) -> dict[int, list[Metric]]:
        """Gradient statistics at initialisation, by trial number."""
        members, probes = self.stack.members, self.stack.probe()
        return {member.number: _rows(one.metrics, 0) for member, one in zip(members, probes, strict=True)}

    def _next_stop(self) -> int:
        training, at = self.plan.training, self.stack.n_updates
        reports = (at // training.report_every + 1) * training.report_every
        evaluations = (at // training.evaluate_every + 1) * training.evaluate_every
        rungs = [rung for rung in training.rungs if rung > at]
        return min(reports, evaluations, training.n_updates, *rungs)

    def _depart(self, metrics: dict[int, dict[str, float]], probes: Sequence[Probe]) -> list[Departure]:
        """Decide who leaves, measure them finally, compact; adds interim results to ``metrics``."""
        training, at = self.plan.training, self.stack.n_updates
        alive = range(len(self.stack.members))
        leaving: dict[int, Status] = {}
        diverged = self.stack.diverged()
        if at == training.n_updates:
            leaving = dict.fromkeys(alive, Status.COMPLETE)
        elif at in training.rungs or at % training.evaluate_every == 0:
            leaving = self._halve(metrics, diverged)
        leaving |= {k: Status.COMPLETE for k in alive if diverged[k]}
        order = sorted(leaving)
        final = dict(zip(order, self.stack.evaluate(f"final/{at}", training.n_final, order), strict=True))
        for k in order:
            # The interim sequences said "solved"; the final ones decide.
            unpruned = at < training.n_updates and leaving[k] is Status.COMPLETE and not diverged[k]
            if unpruned and not self._solves_all(final[k]):
                del leaving[k]
        if not leaving:
            return []
        gone = sorted(leaving)
        spectra = dict(zip(gone, self.stack.spectra(gone), strict=True))
        for k, spectrum in spectra.items():
            metrics[self.stack.members[k].number] |= spectrum_metrics(spectrum)
        outcomes = {
            k: replace(
                self._outcome(leaving[k], final[k]),
                diverged=diverged[k],
                error_flow=probes[k].error_flow,
                part_flow=probes[k].part_flow,
                lyapunov=spectra[k],
                metrics=probes[k].metrics | spectrum_metrics(spectra[k]),
            )
            for k in gone
        }
        departures = [
            Departure(number=self.stack.members[k].number, outcome=outcome, weights=self.stack.member_weights(k))
            for k, outcome in self._confirmed(outcomes).items()
        ]
        self.stack.compact([k for k in alive if k not in leaving])
        return departures

    def _halve(self, metrics: dict[int, dict[str, float]], diverged: Sequence[bool]) -> dict[int, Status]:
        """Who leaves at a rung or an evaluation, on interim sequences."""
        training, at = self.plan.training, self.stack.n_updates
        alive = list(range(len(self.stack.members)))
        results = self.stack.evaluate(f"interim/{at}", training.n_interim, alive)
        values = []
        for k, rungs in enumerate(results):
            interim = self._outcome(Status.RUNNING, rungs)
            values.append(interim.value)
            row = metrics[self.stack.members[k].number]
            row["interim/dependency_length"] = interim.dependency_length
            row["interim/objective"] = interim.value
            row |= {f"interim/error/{rung.length}": rung.error for rung in rungs}
            row |= {f"interim/loss/{rung.length}": rung.loss.mean for rung in rungs if rung.loss is not None}
        leaving = {k: Status.COMPLETE for k in alive if self._solves_all(results[k])}
        if at in training.rungs:
            # Sorting is stable: of equals the earlier number stays, but none whose parameters are not finite.
            ranked = sorted(alive, key=lambda k: (diverged[k], -values[k]))
            losers = ranked[max(1, math.ceil(training.keep * len(alive))) :]
            leaving |= {k: Status.PRUNED for k in losers if k not in leaving}
        return leaving

    def _outcome(self, status: Status, rungs: tuple[Rung, ...]) -> Outcome:
        score = self.stack.yardstick.score(rungs)
        return Outcome(
            status=status,
            dependency_length=score.dependency_length,
            skill=score.skill,
            diverged=False,
            n_updates=self.stack.n_updates,
            rungs=rungs,
        )

    def _confirmed(self, outcomes: Mapping[int, Outcome]) -> dict[int, Outcome]:
        """The outcomes of members by index, the best with its best rung measured again if it is the stack's so far."""
        places = {(*outcome.order, self.stack.members[k].number): k for k, outcome in outcomes.items()}
        place = min(places)
        if self._best is not None and self._best < place:
            return dict(outcomes)
        self._best, best = place, places[place]
        chosen = outcomes[best].best_rung
        if chosen is None:
            return dict(outcomes)
        purpose = f"confirmed/{self.stack.n_updates}"
        ((*_, again),) = self.stack.evaluate(purpose, self.plan.training.n_final, [best], (chosen.length,))
        return {**outcomes, best: replace(outcomes[best], confirmed=again)}

    def _solves_all(self, rungs: Sequence[Rung]) -> bool:
        return self.stack.yardstick.score(rungs).complete


def _rows(values: Mapping[str, float], update: int) -> list[Metric]:
    """Values by name as they are now, after so many updates; what is no number is left out."""
    now = int(time.time() * 1000)
    return [Metric(name=k, value=v, update=update, time_ms=now) for k, v in values.items() if not math.isnan(v)]
