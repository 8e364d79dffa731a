"""A study told to a recorder, and what is then in every table of MLflow's database and in its folders."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.engine import Engine

from study.outcome import Metric, Status, TrialKey, failed_outcome
from study.tracking import place
from study.tracking.entry import (
    Entry,
    MetricsLogged,
    StudyClosed,
    StudyOpened,
    TrialClosed,
    TrialInterrupted,
    TrialOpened,
    model_answers,
)
from study.tracking.recorder import Recorder
from study.tracking.sink import embedded_uri
from study_tests.mlflow_book import OUTCOME, card

BEGUN_MS = 1_700_000_000_000

OUTCOMES = (
    OUTCOME,
    replace(OUTCOME, status=Status.PRUNED, diverged=True),
    failed_outcome("Traceback ...\nRuntimeError: out of memory\n"),
    replace(OUTCOME, rungs=(), confirmed=None, error_flow=(), part_flow={}, lyapunov=(), metrics={}),
)


def key_of(number: int) -> TrialKey:
    return TrialKey(study="demo", model="lstm", number=number)


def metrics_of(random_: random.Random, n: int) -> tuple[Metric, ...]:
    """Few names, updates, times and values, so that many agree in some or all of them."""
    values = (0.0, 0.1, -2.5, math.inf, sys.float_info.max, -math.inf, 1e-320)
    return tuple(
        Metric(
            name=random_.choice(("loss", "interim/objective", "gradient/norm/rnn.weight_hh")),
            value=random_.choice(values),
            update=random_.choice((0, 10, 20)),
            time_ms=BEGUN_MS + random_.choice((0, 5)),
        )
        for _ in range(n)
    )


def study_of(n_trials: int, weights: Path) -> list[Entry]:
    """A study with trials of every kind: told as a whole, not yet ended, interrupted, some of them gone on with.

    Args:
        n_trials: how many.
        weights: folder in which those that end have left weights.
    """
    random_ = random.Random(0)
    entries: list[Entry] = [StudyOpened(time_ms=BEGUN_MS, parameters={"task": "adding"}, specification="name: demo\n")]
    cards = [card(key_of(n), learning_rate=0.1 * n, init="x" * 6000, clip_norm=math.inf) for n in range(n_trials)]
    entries += (TrialOpened(time_ms=BEGUN_MS + n, card=one) for n, one in enumerate(cards) if n % 7)
    weights.mkdir(parents=True)
    for n, one in enumerate(cards):
        entries += (MetricsLogged(key=one.key, metrics=metrics_of(random_, 12)) for _ in range(n % 3))
        if n % 5 == 1:
            entries.append(TrialInterrupted(time_ms=BEGUN_MS + 60 + n, key=one.key))
            if n % 2:
                entries.append(TrialOpened(time_ms=BEGUN_MS + 70 + n, card=one))
        elif n % 5:
            left, outcome = weights / f"{n}.safetensors", OUTCOMES[n % len(OUTCOMES)]
            left.write_bytes(b"%d" % n)
            entries.append(TrialClosed(time_ms=BEGUN_MS + 80 + n, key=one.key, outcome=outcome, weights=str(left)))
    answers = model_answers({key_of(0): OUTCOME})
    return [*entries, StudyClosed(time_ms=BEGUN_MS + 999, status="stopped", answers=answers, seconds={})]


def record_all(uri: str, entries: Sequence[Entry], n_looks: int) -> None:
    """As the shipper does it, which looks into the journal now and then."""
    made = Recorder(uri, "demo")
    step = -(-len(entries) // n_looks)
    for start in range(0, len(entries), step):
        made.record(entries[start : start + step])


@contextmanager
def one_by_one() -> Iterator[None]:
    """As where only a server is at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "rows_of", lambda client, experiment_id: None)
        yield


def tables_of(uri: str, named: Mapping[str, str] = MappingProxyType({})) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, without the runs' ids and the times at which the experiment was made.

    Args:
        uri: of the database.
        named: words that stand for others, as the names of runs do.
    """
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as database:
        words = {**named, **_run_names(engine)}
        found = {}
        for table in sqlalchemy.inspect(engine).get_table_names():
            rows = database.execute(sqlalchemy.text(f'SELECT * FROM "{table}"')).mappings().all()
            plain = (
                {name: value for name, value in row.items() if name not in {"creation_time", "last_update_time"}}
                for row in rows
            )
            found[table] = sorted((tuple(_named(value, words) for value in row.values()) for row in plain), key=repr)
    engine.dispose()
    return found


def files_of(home: Path) -> list[tuple[str, str, bytes]]:
    """The artifacts, by the names of their runs."""
    engine = sqlalchemy.create_engine(embedded_uri(home))
    names = _run_names(engine)
    engine.dispose()
    found = [path for path in (home / "artifacts").rglob("*") if path.is_file()]
    return sorted((names[path.parent.parent.name], path.name, path.read_bytes()) for path in found)


def _run_names(engine: Engine) -> dict[str, str]:
    with engine.connect() as database:
        return dict(database.execute(sqlalchemy.text("SELECT run_uuid, name FROM runs")).all())  # type: ignore[arg-type]


def _named(value: Any, words: Mapping[str, str]) -> Any:
    for word, name in words.items():
        value = value.replace(word, name) if isinstance(value, str) else value
    return value


def assert_equal(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert (name, found[name]) == (name, rows)
