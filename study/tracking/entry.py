"""What the journal holds: one entry for each thing that a study has to tell MLflow, as a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from study.outcome import Metric, Outcome, Status, TrialKey
from study.plan import Parameter


@dataclass(frozen=True, kw_only=True)
class TrialCard:
    """What is known of a trial when it is asked; ``configuration`` is the YAML text that ``launch`` can run."""

    key: TrialKey
    task: str
    cell: str
    parameters: Mapping[str, Parameter]
    configuration: str


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """What the trials of one model have learned: the dependency length of each in steps, and the best one's outcome."""

    model: str
    lengths: tuple[int, ...]
    best: Outcome


@dataclass(frozen=True, kw_only=True)
class StudyOpened:
    """A driver has begun, or gone on, with the study."""

    time_ms: int
    parameters: Mapping[str, str]
    specification: str


@dataclass(frozen=True, kw_only=True)
class TrialOpened:
    """A trial is being trained, or trained on."""

    time_ms: int
    card: TrialCard

    @property
    def key(self) -> TrialKey:
        """Which trial."""
        return self.card.key


@dataclass(frozen=True, kw_only=True)
class MetricsLogged:
    """A trial has reported."""

    key: TrialKey
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, kw_only=True)
class TrialClosed:
    """A trial has ended; ``weights`` is the path of a file that is deleted once MLflow has it."""

    time_ms: int
    key: TrialKey
    outcome: Outcome
    weights: str | None


@dataclass(frozen=True, kw_only=True)
class TrialInterrupted:
    """A trial is left for a later resumption."""

    time_ms: int
    key: TrialKey


@dataclass(frozen=True, kw_only=True)
class StudyClosed:
    """The driver is done with the study, for now or for good."""

    time_ms: int
    status: str
    answers: tuple[ModelAnswer, ...]
    seconds: Mapping[str, float]


TrialEntry = TrialOpened | MetricsLogged | TrialClosed | TrialInterrupted
Entry = StudyOpened | TrialEntry | StudyClosed


def written_ms(entry: TrialEntry) -> int:
    """When the entry was written, or its first value measured; milliseconds since 1970."""
    return entry.metrics[0].time_ms if isinstance(entry, MetricsLogged) else entry.time_ms


def encode(entry: Entry) -> bytes:
    """One line of JSON, non-finite numbers included, that ``decode`` reads back to an equal entry."""
    return json.dumps([type(entry).__name__, entry], default=vars).encode() + b"\n"


class CorruptError(Exception):
    """A line of the journal that no entry was ever written as."""


def decode(line: bytes) -> Entry:
    """The entry that ``encode`` wrote; CorruptError if the line is none."""
    try:
        kind, raw = json.loads(line)
        return _DECODERS[kind](raw)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"a journal entry must be a line that encode wrote, but got {line[:80]!r}") from error


def model_answers(outcomes: Mapping[TrialKey, Outcome]) -> tuple[ModelAnswer, ...]:
    """What each model has learned, in the order in which the models first appear; failed trials measured nothing."""
    by_model: dict[str, list[Outcome]] = {}
    for key, outcome in sorted(outcomes.items(), key=lambda pair: pair[0].number):
        if outcome.status is not Status.FAILED:
            by_model.setdefault(key.model, []).append(outcome)
    return tuple(
        ModelAnswer(
            model=model,
            lengths=tuple(outcome.dependency_length for outcome in by_model[model]),
            # Of equals the one asked first, as queries have it.
            best=min(by_model[model], key=lambda outcome: outcome.order),
        )
        for model in dict.fromkeys(key.model for key in outcomes)
        if model in by_model
    )


def _key(raw: Mapping[str, Any]) -> TrialKey:
    return TrialKey(**raw)


def _outcome(raw: Mapping[str, Any]) -> Outcome:
    return Outcome.from_json(json.dumps(raw))


def _metrics_logged(raw: dict[str, Any]) -> Entry:
    return MetricsLogged(key=_key(raw["key"]), metrics=tuple(Metric(**metric) for metric in raw["metrics"]))


def _trial_opened(raw: dict[str, Any]) -> Entry:
    card = raw["card"]
    return TrialOpened(time_ms=raw["time_ms"], card=TrialCard(**card | {"key": _key(card["key"])}))


def _trial_closed(raw: dict[str, Any]) -> Entry:
    return TrialClosed(**raw | {"key": _key(raw["key"]), "outcome": _outcome(raw["outcome"])})


def _study_closed(raw: dict[str, Any]) -> Entry:
    answers = (
        ModelAnswer(model=row["model"], lengths=tuple(row["lengths"]), best=_outcome(row["best"]))
        for row in raw["answers"]
    )
    return StudyClosed(**raw | {"answers": tuple(answers)})


_DECODERS: Mapping[str, Callable[[dict[str, Any]], Entry]] = {
    "StudyOpened": lambda raw: StudyOpened(**raw),
    "TrialOpened": _trial_opened,
    "MetricsLogged": _metrics_logged,
    "TrialClosed": _trial_closed,
    "TrialInterrupted": lambda raw: TrialInterrupted(**raw | {"key": _key(raw["key"])}),
    "StudyClosed": _study_closed,
}
