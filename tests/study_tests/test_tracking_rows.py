"""New runs as rows of MLflow's database: what is there is what MLflow's own client would have left, in every table."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException

from study.outcome import Metric, Status, TrialKey, failed_outcome
from study.tracking import place, recorder, server
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
from study.tracking.rows import Rows
from study.tracking.sink import embedded_uri
from study_tests.mlflow_book import OUTCOME, card

BEGUN_MS = 1_700_000_000_000

OUTCOMES = (
    OUTCOME,
    replace(OUTCOME, status=Status.PRUNED, diverged=True),
    failed_outcome("Traceback ...\nRuntimeError: out of memory\n"),
    replace(OUTCOME, rungs=(), confirmed=None, error_flow=(), part_flow={}, lyapunov=(), metrics={}),
)


def _key(number: int) -> TrialKey:
    return TrialKey(study="demo", model="lstm", number=number)


def _metrics(random_: random.Random, n: int) -> tuple[Metric, ...]:
    """Few names, updates, times and values, so that many agree in some or all of them."""
    values = (0.0, 0.1, -2.5, math.inf, -math.inf, 1e-320, 1e308)
    return tuple(
        Metric(
            name=random_.choice(("loss", "interim/objective", "gradient/norm/rnn.weight_hh")),
            value=random_.choice(values),
            update=random_.choice((0, 10, 20)),
            time_ms=BEGUN_MS + random_.choice((0, 5)),
        )
        for _ in range(n)
    )


def _study(n_trials: int) -> list[Entry]:
    """A study with trials of every kind: told as a whole, not yet ended, interrupted and gone on with."""
    random_ = random.Random(0)
    entries: list[Entry] = [StudyOpened(time_ms=BEGUN_MS, parameters={"task": "adding"}, specification="name: demo\n")]
    cards = [card(_key(n), learning_rate=0.1 * n, init="x" * 6000, clip_norm=math.inf) for n in range(n_trials)]
    entries += (TrialOpened(time_ms=BEGUN_MS + n, card=one) for n, one in enumerate(cards) if n % 7)
    for n, one in enumerate(cards):
        entries += (MetricsLogged(key=one.key, metrics=_metrics(random_, 12)) for _ in range(n % 3))
        if n % 5 == 1:
            entries.append(TrialInterrupted(time_ms=BEGUN_MS + 60 + n, key=one.key))
            if n % 2:
                entries.append(TrialOpened(time_ms=BEGUN_MS + 70 + n, card=one))
        elif n % 5:
            outcome = OUTCOMES[n % len(OUTCOMES)]
            entries.append(TrialClosed(time_ms=BEGUN_MS + 80 + n, key=one.key, outcome=outcome, weights=None))
    answers = model_answers({_key(0): OUTCOME})
    return [*entries, StudyClosed(time_ms=BEGUN_MS + 999, status="stopped", answers=answers, seconds={})]


def _record(uri: str, entries: Sequence[Entry]) -> None:
    made = Recorder(uri, "demo")
    # As the shipper does it: a look into the journal here, one there.
    half = len(entries) // 2
    for some in (entries[:half], entries[half:]):
        made.record(some)


def _tables(uri: str, named: Mapping[str, str] = MappingProxyType({})) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, without the runs' random names and the times at which the experiment was made.

    Args:
        uri: of the database.
        named: words that stand for others, as the names of runs do.
    """
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as database:
        runs = database.execute(sqlalchemy.text("SELECT run_uuid, name FROM runs"))
        words = {**named, **dict(runs.all())}
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


def _named(value: Any, words: Mapping[str, str]) -> Any:
    for word, name in words.items():
        value = value.replace(word, name) if isinstance(value, str) else value
    return value


def test_rows_leave_in_sqlite_what_mlflows_client_leaves(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "TOGETHER", 5)
    kept = {}
    for way in ("rows", "client"):
        home = tmp_path / way
        home.mkdir()
        shutil.copyfile(empty_database, home / "mlflow.db")
        with monkeypatch.context() as patch:
            if way == "client":
                patch.setattr(place, "rows_of", lambda client, experiment_id: None)
            _record(embedded_uri(home), _study(40))
        kept[way] = _tables(embedded_uri(home), {home.as_uri(): "home"})
        kept[way]["files"] = sorted(
            (path.name, path.read_bytes()) for path in (home / "artifacts").rglob("*.*") if path.is_file()
        )
    assert len(kept["rows"]["runs"]) == 40
    assert len(kept["rows"]["metrics"]) > 500
    assert kept["rows"].keys() == kept["client"].keys()
    for table, rows in kept["client"].items():
        assert (table, kept["rows"][table]) == (table, rows)


def test_rows_leave_in_postgresql_what_mlflows_client_leaves(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = {}
    for way in ("rows", "client"):
        with sqlalchemy.create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as database:
            database.execute(sqlalchemy.text(f"CREATE DATABASE mlflow_{way}"))
        uri = postgres_url.replace("/postgres?", f"/mlflow_{way}?")
        with monkeypatch.context() as patch:
            if way == "client":
                patch.setattr(place, "rows_of", lambda client, experiment_id: None)
            _record(uri, _study(20))
        kept[way] = _tables(uri)
    assert len(kept["rows"]["runs"]) == 20
    for table, rows in kept["client"].items():
        assert (table, kept["rows"][table]) == (table, rows)


def test_new_runs_are_written_in_two_transactions_whatever_their_number(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    made = Recorder(embedded_uri(tmp_path), "demo")
    opened, *others = _study(40)
    made.record([opened])
    store = server.connect(embedded_uri(tmp_path))._tracking_client.store
    sessions, real = [], store.ManagedSessionMaker

    def counted(read_only: bool = True) -> Any:
        sessions.append(read_only)
        return real(read_only=read_only)

    monkeypatch.setattr(store, "ManagedSessionMaker", counted)
    keys = [_key(number) for number in range(30)]
    made.record([TrialClosed(time_ms=BEGUN_MS, key=key, outcome=OUTCOME, weights=None) for key in keys])
    assert sessions.count(False) == 2
    assert len(others) > 40


def test_rows_that_mlflow_refuses_leave_runs_as_they_began(tmp_path: Path, empty_database: Path) -> None:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    made = Recorder(embedded_uri(tmp_path), "demo")
    cards = [card(_key(0), learning_rate=0.1), card(_key(1), **{"learning[0]": 0.1})]
    with pytest.raises(MlflowException, match=r"learning\[0\]") as caught:
        made.record([TrialOpened(time_ms=BEGUN_MS, card=one) for one in cards])
    assert recorder.refused(caught.value)
    tables = _tables(embedded_uri(tmp_path))
    assert tables["params"] == tables["metrics"] == []
    assert sorted(row[1] for row in tables["runs"]) == ["demo", "lstm/0", "lstm/1"]
    made.forget()
    made.record([TrialOpened(time_ms=BEGUN_MS, card=cards[0])])
    assert [row[:2] for row in _tables(embedded_uri(tmp_path))["params"]] == [("learning_rate", "0.1")]


def test_rows_begin_no_run_in_an_experiment_that_is_deleted(tmp_path: Path, empty_database: Path) -> None:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    made = Recorder(embedded_uri(tmp_path), "demo")
    made.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    client = server.connect(embedded_uri(tmp_path))
    client.delete_experiment(client.get_experiment_by_name("demo").experiment_id)
    with pytest.raises(MlflowException, match="experiment 'demo' is deleted"):
        made.record([TrialOpened(time_ms=BEGUN_MS, card=card(_key(0)))])
    assert len(_tables(embedded_uri(tmp_path))["runs"]) == 1


def test_a_run_that_begins_together_with_one_that_cannot_does_not_begin(tmp_path: Path, empty_database: Path) -> None:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    client = server.connect(embedded_uri(tmp_path))
    store = client._tracking_client.store
    rows = Rows(store, client.create_experiment("demo"))
    first = place.Beginning(name="a", time_ms=BEGUN_MS, tags={"longlag.model": "m"})
    with pytest.raises(MlflowException, match="type 'list' is not supported"):
        rows.begin([first, replace(first, name=["no text"])])  # type: ignore[arg-type]
    assert _tables(embedded_uri(tmp_path))["runs"] == []
