"""New runs as rows of MLflow's database: what is there is what MLflow's own client would have left, in every table."""

from __future__ import annotations

import math
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import event
from sqlalchemy.engine import Engine

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
from study.tracking.place import Place
from study.tracking.recorder import Recorder
from study.tracking.sink import embedded_uri
from study_tests.mlflow_book import OUTCOME, card, run_of_trial

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


def _study(n_trials: int, weights: Path) -> list[Entry]:
    """A study with trials of every kind: told as a whole, not yet ended, interrupted, some of them gone on with.

    Args:
        n_trials: how many.
        weights: folder in which those that end have left weights.
    """
    random_ = random.Random(0)
    entries: list[Entry] = [StudyOpened(time_ms=BEGUN_MS, parameters={"task": "adding"}, specification="name: demo\n")]
    cards = [card(_key(n), learning_rate=0.1 * n, init="x" * 6000, clip_norm=math.inf) for n in range(n_trials)]
    entries += (TrialOpened(time_ms=BEGUN_MS + n, card=one) for n, one in enumerate(cards) if n % 7)
    weights.mkdir(parents=True)
    for n, one in enumerate(cards):
        entries += (MetricsLogged(key=one.key, metrics=_metrics(random_, 12)) for _ in range(n % 3))
        if n % 5 == 1:
            entries.append(TrialInterrupted(time_ms=BEGUN_MS + 60 + n, key=one.key))
            if n % 2:
                entries.append(TrialOpened(time_ms=BEGUN_MS + 70 + n, card=one))
        elif n % 5:
            left, outcome = weights / f"{n}.safetensors", OUTCOMES[n % len(OUTCOMES)]
            left.write_bytes(b"%d" % n)
            entries.append(TrialClosed(time_ms=BEGUN_MS + 80 + n, key=one.key, outcome=outcome, weights=str(left)))
    answers = model_answers({_key(0): OUTCOME})
    return [*entries, StudyClosed(time_ms=BEGUN_MS + 999, status="stopped", answers=answers, seconds={})]


def _record(uri: str, entries: Sequence[Entry], n_looks: int) -> None:
    """As the shipper does it, which looks into the journal now and then."""
    made = Recorder(uri, "demo")
    step = -(-len(entries) // n_looks)
    for start in range(0, len(entries), step):
        made.record(entries[start : start + step])


@contextmanager
def _one_by_one() -> Iterator[None]:
    """As where only a server is at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "rows_of", lambda client, experiment_id: None)
        yield


def _tables(uri: str, named: Mapping[str, str] = MappingProxyType({})) -> dict[str, list[tuple[Any, ...]]]:
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


def _files(home: Path) -> list[tuple[str, str, bytes]]:
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


@pytest.fixture
def new_home(tmp_path: Path, empty_database: Path) -> Callable[[str], Path]:
    """Makes data directories, each with an empty database."""

    def make(name: str) -> Path:
        home = tmp_path / name
        home.mkdir()
        shutil.copyfile(empty_database, home / "mlflow.db")
        return home

    return make


def _assert_equal(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert (name, found[name]) == (name, rows)


@pytest.mark.parametrize("n_looks", [1, 2, 5])
def test_rows_leave_in_sqlite_what_mlflows_client_leaves(
    new_home: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, n_looks: int
) -> None:
    monkeypatch.setattr(recorder, "TOGETHER", 5)
    ours, theirs = new_home("ours"), new_home("theirs")
    _record(embedded_uri(ours), _study(40, ours / "weights"), n_looks)
    with _one_by_one():
        _record(embedded_uri(theirs), _study(40, theirs / "weights"), n_looks)
    tables = [_tables(embedded_uri(home), {home.as_uri(): "home"}) for home in (ours, theirs)]
    assert len(tables[0]["runs"]) == 40
    assert len(tables[0]["metrics"]) > 500
    _assert_equal(*tables)
    assert _files(ours) == _files(theirs)
    assert [*(ours / "weights").iterdir()] == [*(theirs / "weights").iterdir()] == []


def test_rows_leave_in_postgresql_what_mlflows_client_leaves(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uris = {}
    for way in ("rows", "client"):
        with sqlalchemy.create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as database:
            database.execute(sqlalchemy.text(f"CREATE DATABASE mlflow_{way}"))
        uris[way] = postgres_url.replace("/postgres?", f"/mlflow_{way}?")
    _record(uris["rows"], _study(20, tmp_path / "ours"), 1)
    with _one_by_one():
        _record(uris["client"], _study(20, tmp_path / "theirs"), 1)
    tables = [_tables(uri) for uri in uris.values()]
    assert len(tables[0]["runs"]) == 20
    assert len(tables[0]["metrics"]) > 200
    _assert_equal(*tables)


class _KilledError(BaseException):
    """What no code catches."""


@contextmanager
def _killed_at(n_points: int) -> Iterator[list[int]]:
    """Die at a point: before a statement or a commit, before or after an upload; how many points there were."""
    passed = [0]

    def point(*_: object) -> None:
        passed[0] += 1
        if passed[0] == n_points:
            raise _KilledError

    upload = Place.upload

    def uploading(*args: Any) -> None:
        point()
        upload(*args)
        point()

    hooks = ("before_cursor_execute", "commit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "upload", uploading)
        for name in hooks:
            event.listen(Engine, name, point)
        try:
            yield passed
        finally:
            for name in hooks:
                event.remove(Engine, name, point)


def test_wherever_recording_dies_the_next_time_leaves_all_of_it_once(new_home: Callable[[str], Path]) -> None:
    def ended(home: Path) -> list[Entry]:
        entries = _study(9, home / "weights")
        return [entry for entry in entries if not isinstance(entry, StudyClosed)]

    whole = new_home("whole")
    with _killed_at(0) as points:
        _record(embedded_uri(whole), ended(whole), 1)
    expected = _tables(embedded_uri(whole), {whole.as_uri(): "home"})
    assert points[0] > 60
    for n in range(1, points[0] + 1, 4):
        home = new_home(str(n))
        entries = ended(home)
        with pytest.raises(_KilledError), _killed_at(n):
            _record(embedded_uri(home), entries, 1)
        for entry in entries:
            # What MLflow lacks is still there.
            if isinstance(entry, TrialClosed) and not Path(str(entry.weights)).exists():
                run = run_of_trial(server.connect(embedded_uri(home)), entry.key)
                assert run.info.status in {"FINISHED", "FAILED"}
        _record(embedded_uri(home), entries, 1)
        _assert_equal(_tables(embedded_uri(home), {home.as_uri(): "home"}), expected)
        assert _files(home) == _files(whole)


def test_a_trial_of_which_a_part_cannot_be_written_is_not_there_at_all(home: Path, client: MlflowClient) -> None:
    weights = home / "w.safetensors"
    weights.write_bytes(b"tensors")
    made = Recorder(embedded_uri(home), "demo")
    made.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    before = _tables(embedded_uri(home))
    entry = TrialClosed(time_ms=BEGUN_MS, key=_key(0), outcome=OUTCOME, weights=str(weights))
    room = [1]

    def refuse(connection: object, cursor: object, statement: str, *_: object) -> None:
        if room and "INSERT INTO latest_metrics" in statement:
            raise sqlalchemy.exc.OperationalError(statement, {}, Exception("no room"))

    event.listen(Engine, "before_cursor_execute", refuse)
    try:
        with pytest.raises(MlflowException, match="no room"):
            made.record([entry])
        assert _tables(embedded_uri(home)) == before
        assert weights.read_bytes() == b"tensors"
        assert made.run_ids() == {}
        room.clear()
        made.forget()
        made.record([entry])
    finally:
        event.remove(Engine, "before_cursor_execute", refuse)
    run = run_of_trial(client, _key(0))
    assert run.info.status == "FINISHED"
    assert not weights.exists()
    # The files that the first try has left are those of this run.
    assert {name for name, *_ in _files(home)} == {"demo", "lstm/0"}


def test_new_trials_cost_a_few_statements_whatever_their_number(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "TOGETHER", 10)
    made = Recorder(embedded_uri(home), "demo")
    made.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    keys = [_key(number) for number in range(35)]
    with _killed_at(0) as points:
        made.record([TrialClosed(time_ms=BEGUN_MS, key=key, outcome=OUTCOME, weights=None) for key in keys])
    n_uploads = 2 * len(keys)
    # Of each group 3 transactions, two of which read, 3 settings of SQLite's in each, 5 tables and what is read.
    assert points[0] - n_uploads <= 4 * 25
    assert made.run_ids().keys() == set(keys)


def test_only_one_trials_files_are_held_at_a_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    write = Place.write
    monkeypatch.setattr(
        Place, "write", lambda self, new: (held.extend(len(run.batch.files) for run in new.values()), write(self, new))
    )
    made = Recorder(embedded_uri(home), "demo")
    made.record([TrialOpened(time_ms=BEGUN_MS, card=card(_key(number))) for number in range(3)])
    assert held == [0, 0, 0]
    assert [(name, file) for name, file, _ in _files(home)] == [(f"lstm/{n}", "study.yaml") for n in range(3)]


def test_what_mlflow_refuses_is_not_written_nor_what_came_with_it(home: Path) -> None:
    made = Recorder(embedded_uri(home), "demo")
    cards = [card(_key(0), learning_rate=0.1), card(_key(1), **{"learning[0]": 0.1})]
    with pytest.raises(MlflowException, match=r"learning\[0\]") as caught:
        made.record([TrialOpened(time_ms=BEGUN_MS, card=one) for one in cards])
    assert recorder.refused(caught.value)
    assert [row[1] for row in _tables(embedded_uri(home))["runs"]] == ["demo"]
    made.forget()
    made.record([TrialOpened(time_ms=BEGUN_MS, card=cards[0])])
    assert [row[:2] for row in _tables(embedded_uri(home))["params"]] == [("learning_rate", "0.1")]


def test_no_run_is_made_in_an_experiment_that_is_deleted(home: Path, client: MlflowClient) -> None:
    made = Recorder(embedded_uri(home), "demo")
    made.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    client.delete_experiment(client.get_experiment_by_name("demo").experiment_id)
    with pytest.raises(MlflowException, match="experiment 'demo' is deleted"):
        made.record([TrialOpened(time_ms=BEGUN_MS, card=card(_key(0)))])
    assert len(_tables(embedded_uri(home))["runs"]) == 1


def test_a_trial_whose_run_was_deleted_gets_another(home: Path, client: MlflowClient) -> None:
    opened = [TrialOpened(time_ms=BEGUN_MS, card=card(_key(number))) for number in range(2)]
    Recorder(embedded_uri(home), "demo").record(opened)
    first = run_of_trial(client, _key(0)).info.run_id
    client.delete_run(first)
    Recorder(embedded_uri(home), "demo").record(opened)
    assert run_of_trial(client, _key(0)).info.run_id != first
    assert client.get_run(first).info.lifecycle_stage == "deleted"
    assert len(_tables(embedded_uri(home))["runs"]) == 4


def test_a_trial_that_somebody_else_has_recorded_meanwhile_is_found_and_not_recorded_again(
    home: Path, client: MlflowClient
) -> None:
    entries = [
        TrialOpened(time_ms=BEGUN_MS, card=card(_key(0))),
        TrialClosed(time_ms=BEGUN_MS, key=_key(0), outcome=OUTCOME, weights=None),
    ]
    ours, theirs = (Recorder(embedded_uri(home), "demo") for _ in range(2))
    for one in (ours, theirs):
        one.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    theirs.record(entries)
    with pytest.raises(MlflowException, match="demo/lstm/0 has got a run meanwhile") as caught:
        ours.record(entries)
    assert not recorder.refused(caught.value)
    ours.forget()
    ours.record(entries)
    assert ours.run_ids() == theirs.run_ids() == {_key(0): run_of_trial(client, _key(0)).info.run_id}


def test_a_trial_whose_run_lost_its_tag_gets_another(home: Path, client: MlflowClient) -> None:
    opened = [TrialOpened(time_ms=BEGUN_MS, card=card(_key(0)))]
    Recorder(embedded_uri(home), "demo").record(opened)
    first = run_of_trial(client, _key(0)).info.run_id
    client.delete_tag(first, "longlag.trial")
    Recorder(embedded_uri(home), "demo").record(opened)
    assert run_of_trial(client, _key(0)).info.run_id != first


def test_a_new_database_beside_old_artifacts_leaves_them_to_their_runs(home: Path, empty_database: Path) -> None:
    key, weights = _key(0), home / "w.safetensors"
    weights.write_bytes(b"old")
    recorded = []
    for outcome, left in ((OUTCOME, str(weights)), (failed_outcome("RuntimeError: no"), None)):
        # Under another name, for MLflow keeps connections to a file.
        place = home / f"mlflow-{len(recorded)}.db"
        shutil.copyfile(empty_database, place)
        made = Recorder(f"sqlite:///{place}", "demo")
        made.record([TrialClosed(time_ms=BEGUN_MS, key=key, outcome=outcome, weights=left)])
        recorded.append(made.run_ids()[key])
    folders = [home / "artifacts" / "demo" / run_id / "artifacts" for run_id in recorded]
    assert (folders[0] / "weights.safetensors").read_bytes() == b"old"
    assert [path.name for path in folders[1].iterdir()] == ["reason.txt"]
