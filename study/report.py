"""The answer of a study: pure functions from trial records to rows that people and programs read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from study.grid import grid_points
from study.outcome import Loss, Outcome, Rung, Status, wilson_interval
from study.plan import Choices, Parameter, StudyPlan
from study.query import best, best_by_model, only_failures
from study.record import TrialRecord

_FIXED = (
    *("study", "task", "model", "cell", "number", "run_id", "status", "seed", "value", "dependency_length", "skill"),
    *(f"error.{name}" for name in ("length", "lag", "n_failed", "n_sequences", "error", "low", "high")),
    *(f"error.loss.{name}" for name in ("mean", "standard_error", "low", "high", "bits")),
    *("error.solved", "error.confirmed"),
    *("bound", "diverged", "n_updates", "reason"),
)
"""Columns of a CSV file that do not depend on what is searched or measured."""

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the best trial of one model learned; ``record`` is None where no trial of it has measured anything.

    ``failed`` are its trials where all that have ended failed.
    ``rung`` is the longest solved one, or the first unsolved one where none is, or the full context of a data set, as
    the confirming sequences have it: those on which the trial became the best would flatter it;
    ``decay_rate`` is in nats per step, ``half_life`` in steps.
    """

    model: str
    record: TrialRecord | None
    failed: Sequence[TrialRecord]
    dependency_length: int
    rung: Rung | None
    decay_rate: float
    half_life: float


def answers(plan: StudyPlan, records: Sequence[TrialRecord]) -> list[Answer]:
    """One answer for each model, in the order of the study."""
    found = []
    for model, record in best_by_model(records, [model.name for model in plan.models]).items():
        outcome = None if record is None else record.outcome
        metrics = {} if outcome is None else outcome.metrics
        found.append(
            Answer(
                model=model,
                record=record,
                failed=only_failures(records, model=model),
                dependency_length=0 if outcome is None else outcome.dependency_length,
                rung=None if outcome is None else outcome.confirmed,
                decay_rate=metrics.get("gradient/decay_rate", math.nan),
                half_life=metrics.get("gradient/half_life", math.nan),
            )
        )
    return found


def failure_text(failed: Sequence[TrialRecord]) -> str:
    """That all of these trials failed, why the first of them did, and where the rest of that is told."""
    key, outcome = failed[0].key, failed[0].outcome
    lines = outcome.reason.split("\n") if outcome else []
    reason = next((line.strip() for line in reversed(lines) if line.strip()), "no reason is known")
    trials = "the only trial" if len(failed) == 1 else f"all {len(failed)} trials"
    return f"{trials} failed: {reason} (`longlag show {key.study} {key.model}/{key.number}` tells more)"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What the replicates of a grid's point have learned.

    ``chosen`` is what tells the point from the others of its model; ``lengths`` are the dependency lengths of all
    replicates, the shortest first, ``updates`` those that solved the whole ladder made, the fewest first;
    ``n_pruned`` replicates were ended before their budget, unsolved; ``n_open`` have not ended, or not begun. On a data
    set, where nothing is solved, ``losses`` are those at full context in nats, on the part that trials are compared by,
    the least first.
    """

    model: str
    chosen: Mapping[str, Parameter]
    lengths: tuple[int, ...]
    updates: tuple[int, ...]
    losses: tuple[float, ...]
    n_pruned: int
    n_open: int

    @property
    def n_trials(self) -> int:
        """How many replicates have ended."""
        return len(self.lengths)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson 95 % interval of the success rate; None where more replicates might succeed, or might have.

        Those that succeed end first.
        """
        return None if self.n_pruned or self.n_open else wilson_interval(len(self.updates), self.n_trials)


def rates(plan: StudyPlan, records: Sequence[TrialRecord]) -> list[Rate]:
    """What replicates learned at the points of a study's grids, as far as they ended."""
    if plan.search.sampler != "grid":
        return []
    found = []
    for model in plan.models:
        own, points = best(records, model=model.name), grid_points(model.cell, model.space)
        for point in points:
            outcomes = [record.outcome for record in own if record.outcome and record.parameters == point]
            chosen = {name: value for name, value in point.items() if isinstance(model.space[name], Choices)}
            every = [record for record in records if record.key.model == model.name and record.parameters == point]
            n_ended = sum(record.outcome is not None for record in every)
            if outcomes:
                n_open = max(0, plan.search.n_trials // len(points) - n_ended)
                found.append(_rate(plan, model.name, chosen, outcomes, n_open=n_open))
    return found


def row(record: TrialRecord, task: str, cell: str) -> dict[str, Json]:
    """A trial as data for JSON, YAML and CSV; non-finite numbers become the words "inf", "-inf" and "nan"."""
    outcome = record.outcome
    described: dict[str, Json] = {
        "study": record.key.study,
        "task": task,
        "model": record.key.model,
        "cell": cell,
        "number": record.key.number,
        "run_id": record.run_id,
        "status": str(record.status),
        "seed": record.seed,
        "parameters": {name: _plain(value) for name, value in record.parameters.items()},
    }
    if outcome is None:
        return described
    rung = outcome.confirmed or outcome.best_rung
    return described | {
        "status": str(outcome.status),
        "value": _plain(outcome.value),
        "dependency_length": outcome.dependency_length,
        "skill": _plain(outcome.skill),
        "bound": outcome.bound_verdict,
        "diverged": outcome.diverged,
        "n_updates": outcome.n_updates,
        "error": None if rung is None else _error(rung) | {"confirmed": outcome.confirmed is not None},
        "ladder": [_error(one) for one in outcome.rungs],
        "metrics": {name: _plain(value) for name, value in outcome.metrics.items()},
        "reason": outcome.reason,
    }


def flat(described: Mapping[str, Json]) -> dict[str, Json]:
    """A row for a CSV file: nested names joined by dots, an interval as its two ends, the ladder left out."""
    columns: dict[str, Json] = {}
    for name, value in described.items():
        if isinstance(value, dict):
            columns |= {f"{name}.{inner}": held for inner, held in flat(value).items()}
        elif name == "interval" and isinstance(value, list):
            columns["low"], columns["high"] = value
        elif value is not None and not isinstance(value, list):
            columns[name] = value
    return columns


def csv_text(rows: Sequence[Mapping[str, Json]]) -> str:
    """Rows as a CSV file; its columns do not depend on which trial comes first, nor on whether it has ended."""
    lines = [flat(row) for row in rows]
    names = sorted({name for line in lines for name in line})
    searched = [name for prefix in ("parameters.", "metrics.") for name in names if name.startswith(prefix)]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_FIXED, *searched])
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def find_rung(described: Mapping[str, Json]) -> Rung | None:
    """The rung that ``row`` shows of a trial, if any."""
    error = described.get("error")
    if not isinstance(error, dict):
        return None
    counts = {name: error[name] for name in ("length", "lag", "n_failed", "n_sequences")}
    loss = error.get("loss")
    known = {name: float(loss[name]) for name in ("mean", "standard_error")} if isinstance(loss, dict) else None  # type: ignore[arg-type]
    return Rung(**counts, loss=known and Loss(**known))  # type: ignore[arg-type]


def _rate(
    plan: StudyPlan, model: str, chosen: Mapping[str, Parameter], outcomes: Sequence[Outcome], *, n_open: int
) -> Rate:
    losses = [outcome.rungs[-1].loss for outcome in outcomes if outcome.by_loss]
    solved = [outcome for outcome in outcomes if not losses and _solves_all(plan, outcome)]
    pruned = [outcome for outcome in outcomes if outcome.status is Status.PRUNED and outcome not in solved]
    return Rate(
        model=model,
        chosen=chosen,
        lengths=tuple(sorted(outcome.dependency_length for outcome in outcomes)),
        updates=tuple(sorted(outcome.n_updates for outcome in solved)),
        losses=tuple(sorted(loss.mean for loss in losses if loss is not None)),
        n_pruned=len(pruned),
        n_open=n_open,
    )


def _solves_all(plan: StudyPlan, outcome: Outcome) -> bool:
    """Whether a trial has climbed the ladder to its end; it stops at the first rung that it does not solve."""
    return any(rung.length == plan.training.ladder[-1] and rung.solved for rung in outcome.rungs)


def _error(rung: Rung) -> dict[str, Json]:
    """A rung as data; one of a data set is not solved or unsolved, but has a loss."""
    low, high = rung.interval
    verdict: dict[str, Json] = {"solved": rung.solved} if rung.loss is None else {"loss": _loss(rung.loss)}
    return verdict | {
        "length": rung.length,
        "lag": rung.lag,
        "n_failed": rung.n_failed,
        "n_sequences": rung.n_sequences,
        "error": rung.error,
        "interval": [low, high],
    }


def _loss(loss: Loss) -> dict[str, Json]:
    low, high = map(_plain, loss.interval)
    return {
        "mean": _plain(loss.mean),
        "standard_error": _plain(loss.standard_error),
        "interval": [low, high],
        "bits": _plain(loss.bits),
    }


def _plain(value: Parameter) -> Json:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
