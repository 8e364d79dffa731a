"""Questions about trials: pure functions on their records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from study.errors import UserError
from study.outcome import Status
from study.record import TrialRecord


def best(
    records: Iterable[TrialRecord], *, model: str | None = None, min_length: int | None = None, top: int | None = None
) -> list[TrialRecord]:
    """Trials that have measured something, the best first; of equals the one asked earlier.

    Args:
        records: trials of one study or of several.
        model: only trials of this model.
        min_length: only trials that have learned a dependency of at least this many steps.
        top: at most this many.
    """
    found = [
        (record.outcome, record)
        for record in records
        if record.outcome is not None
        and record.outcome.status is not Status.FAILED
        and (model is None or record.key.model == model)
        and (min_length is None or record.outcome.dependency_length >= min_length)
    ]
    found.sort(key=lambda pair: (pair[0].order, pair[1].key.number))
    return [record for _, record in found][:top]


def best_by_model(records: Sequence[TrialRecord], models: Sequence[str]) -> dict[str, TrialRecord | None]:
    """The best trial of each model, None for one that has measured nothing."""
    return {model: next(iter(best(records, model=model, top=1)), None) for model in models}


def outlined(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials, of which only the best of each model keep the curves and metrics of their outcomes."""
    found: list[TrialRecord] = []
    leading: dict[str, list[TrialRecord]] = {}
    for record in records:
        leading[record.key.model] = best([*leading.get(record.key.model, ()), record], top=1)
        found.append(replace(record, outcome=record.outcome and record.outcome.outline))
    whole = {record.key: record for leaders in leading.values() for record in leaders}
    return [whole.get(record.key, record) for record in found]


def only_failures(records: Iterable[TrialRecord], *, model: str | None = None) -> list[TrialRecord]:
    """The trials that have ended, if an error ended all of them; else none. ``model`` is as in ``best``."""
    ended = [
        record for record in records if record.outcome is not None and (model is None or record.key.model == model)
    ]
    return [] if best(ended) else ended


def find_trial(records: Sequence[TrialRecord], models: Sequence[str], text: str) -> TrialRecord:
    """The trial that ``MODEL/NUMBER`` names, or ``NUMBER`` where the study has one model.

    Raises:
        UserError: there is none such.
    """
    model, _, number = text.rpartition("/")
    if not model and len(models) == 1:
        model = models[0]
    if model not in models or not (number.isascii() and number.isdecimal()):
        raise UserError(f"a trial must be named MODEL/NUMBER with a model out of {', '.join(models)}, but got {text!r}")
    for record in records:
        if record.key.model == model and record.key.number == int(number):
            return record
    count = sum(record.key.model == model for record in records)
    raise UserError(
        f"trials of model {model} are numbered from 0 to {count - 1}, but got {number}"
        if count
        else f"model {model} must have trials to show one, but it has none yet"
    )
