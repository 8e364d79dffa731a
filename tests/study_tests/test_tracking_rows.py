"""Runs as rows of MLflow's database: what is there is what MLflow's own client would have left, in every table."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from study.outcome import Metric, failed_outcome
from study.tracking import recorder, rows
from study.tracking.entry import (
    MetricsLogged,
    StudyOpened,
    TrialClosed,
    TrialOpened,
)
from study.tracking.place import Place
from study.tracking.recorder import Recorder
from study.tracking.rows import Told
from study.tracking.run import Batch, RunPlace, Standing
from study.tracking.sink import embedded_uri
from study_tests.mlflow_book import OUTCOME, card, run_of_trial
from study_tests.rows_book import (
    BEGUN_MS,
    assert_equal,
    files_of,
    key_of,
    metrics_of,
    one_by_one,
    record_all,
    study_of,
    tables_of,
)


@pytest.mark.parametrize("n_looks", [1, 2, 5])
def test_rows_leave_in_sqlite_what_mlflows_client_leaves(
    new_home: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, n_looks: int
) -> None:
    monkeypatch.setattr(recorder, "TOGETHER", 5)
    ours, theirs = new_home("ours"), new_home("theirs")
    record_all(embedded_uri(ours), study_of(40, ours / "weights"), n_looks)
    with one_by_one():
        record_all(embedded_uri(theirs), study_of(40, theirs / "weights"), n_looks)
    tables = [tables_of(embedded_uri(home), {home.as_uri(): "home"}) for home in (ours, theirs)]
    assert len(tables[0]["runs"]) == 40
    assert len(tables[0]["metrics"]) > 500
    assert_equal(*tables)
    assert files_of(ours) == files_of(theirs)
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
    record_all(uris["rows"], study_of(20, tmp_path / "ours"), 3)
    with one_by_one():
        record_all(uris["client"], study_of(20, tmp_path / "theirs"), 3)
    tables = [tables_of(uri) for uri in uris.values()]
    assert len(tables[0]["runs"]) == 20
    assert len(tables[0]["metrics"]) > 200
    assert_equal(*tables)


def test_what_comes_to_a_run_in_any_order_leaves_what_mlflows_client_leaves(home: Path, client: MlflowClient) -> None:
    made = Recorder(embedded_uri(home), "demo")
    made.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    place, random_ = made._at(), random.Random(1)
    ours, theirs = (place.run(key_of(n), BEGUN_MS, {}) for n in range(2))
    for n in range(12):
        batch = Batch(metrics=[*metrics_of(random_, 9)], tags={"turn": str(n), random_.choice("abc"): str(n)})
        batch.parameters = {f"parameter {n % 7}": n % 7}
        if n % 4 == 1:
            batch.standing = Standing(status="FINISHED", end_ms=BEGUN_MS + n)
        place.write({key_of(0): Told(place=ours, batch=batch)})
        made._send(theirs, batch)
    found, expected = (_of_run(embedded_uri(home), run) for run in (ours, theirs))
    assert len(expected["metrics"]) > 40
    assert_equal(found, expected)


def _of_run(uri: str, run: RunPlace) -> dict[str, list[object]]:
    """What the tables say of a run, but its id and what it is found by."""
    engine = sqlalchemy.create_engine(uri)
    found: dict[str, list[object]] = {}
    with engine.connect() as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            rows = database.execute(sqlalchemy.text(f"SELECT * FROM {table} WHERE run_uuid = '{run.run_id}'"))
            every = [{name: one[name] for name in one if name not in _OWN} for one in rows.mappings()]
            found[table] = sorted((one for one in every if one.get("key") not in _OWN), key=repr)
    engine.dispose()
    return found


_OWN = ("run_uuid", "name", "artifact_uri", "mlflow.runName", "longlag.trial")


def test_only_one_trials_files_are_held_at_a_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    write = Place.write
    monkeypatch.setattr(
        Place, "write", lambda self, new: (held.extend(len(run.batch.files) for run in new.values()), write(self, new))
    )
    made = Recorder(embedded_uri(home), "demo")
    made.record([TrialOpened(time_ms=BEGUN_MS, card=card(key_of(number))) for number in range(3)])
    assert held == [0, 0, 0]
    assert [(name, file) for name, file, _ in files_of(home)] == [(f"lstm/{n}", "study.yaml") for n in range(3)]


def test_what_mlflow_refuses_is_not_written_nor_what_came_with_it(home: Path) -> None:
    made = Recorder(embedded_uri(home), "demo")
    cards = [card(key_of(0), learning_rate=0.1), card(key_of(1), **{"learning[0]": 0.1})]
    with pytest.raises(MlflowException, match=r"learning\[0\]") as caught:
        made.record([TrialOpened(time_ms=BEGUN_MS, card=one) for one in cards])
    assert recorder.refused(caught.value)
    assert [row[1] for row in tables_of(embedded_uri(home))["runs"]] == ["demo"]
    made.forget()
    made.record([TrialOpened(time_ms=BEGUN_MS, card=cards[0])])
    assert [row[:2] for row in tables_of(embedded_uri(home))["params"]] == [("learning_rate", "0.1")]


def test_no_run_is_made_in_an_experiment_that_is_deleted(home: Path, client: MlflowClient) -> None:
    made = Recorder(embedded_uri(home), "demo")
    made.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    client.delete_experiment(client.get_experiment_by_name("demo").experiment_id)
    with pytest.raises(MlflowException, match="experiment 'demo' is deleted"):
        made.record([TrialOpened(time_ms=BEGUN_MS, card=card(key_of(0)))])
    assert len(tables_of(embedded_uri(home))["runs"]) == 1


def test_a_trial_whose_run_is_deleted_while_it_runs_gets_another(home: Path, client: MlflowClient) -> None:
    made = Recorder(embedded_uri(home), "demo")
    made.record([TrialOpened(time_ms=BEGUN_MS, card=card(key_of(number))) for number in range(2)])
    first = made.run_ids()[key_of(0)]
    client.delete_run(first)
    before = tables_of(embedded_uri(home))
    ended = [TrialClosed(time_ms=BEGUN_MS, key=key_of(n), outcome=OUTCOME, weights=None) for n in range(2)]
    with pytest.raises(MlflowException, match="must be in the 'active' state") as caught:
        made.record(ended)
    assert recorder.refused(caught.value)
    assert tables_of(embedded_uri(home)) == before
    made.forget()
    made.record(ended)
    assert run_of_trial(client, key_of(0)).info.run_id != first
    assert {run_of_trial(client, key_of(n)).info.status for n in range(2)} == {"FINISHED"}


def test_a_trial_whose_run_was_deleted_gets_another(home: Path, client: MlflowClient) -> None:
    opened = [TrialOpened(time_ms=BEGUN_MS, card=card(key_of(number))) for number in range(2)]
    Recorder(embedded_uri(home), "demo").record(opened)
    first = run_of_trial(client, key_of(0)).info.run_id
    client.delete_run(first)
    Recorder(embedded_uri(home), "demo").record(opened)
    assert run_of_trial(client, key_of(0)).info.run_id != first
    assert client.get_run(first).info.lifecycle_stage == "deleted"
    assert len(tables_of(embedded_uri(home))["runs"]) == 4


def test_a_trial_that_somebody_else_has_recorded_meanwhile_is_found_and_not_recorded_again(
    home: Path, client: MlflowClient
) -> None:
    entries = [
        TrialOpened(time_ms=BEGUN_MS, card=card(key_of(0))),
        TrialClosed(time_ms=BEGUN_MS, key=key_of(0), outcome=OUTCOME, weights=None),
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
    assert ours.run_ids() == theirs.run_ids() == {key_of(0): run_of_trial(client, key_of(0)).info.run_id}


def test_a_trial_whose_run_lost_its_tag_gets_another(home: Path, client: MlflowClient) -> None:
    opened = [TrialOpened(time_ms=BEGUN_MS, card=card(key_of(0)))]
    Recorder(embedded_uri(home), "demo").record(opened)
    first = run_of_trial(client, key_of(0)).info.run_id
    client.delete_tag(first, "longlag.trial")
    Recorder(embedded_uri(home), "demo").record(opened)
    assert run_of_trial(client, key_of(0)).info.run_id != first


def test_a_new_database_beside_old_artifacts_leaves_them_to_their_runs(home: Path, empty_database: Path) -> None:
    key, weights = key_of(0), home / "w.safetensors"
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


def test_what_runs_have_reported_before_is_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Recorder(embedded_uri(home), "demo")
    history = [Metric(name="loss", value=0.5, update=n, time_ms=BEGUN_MS) for n in range(300)]
    made.record([MetricsLogged(key=key_of(0), metrics=tuple(history))])
    made.record([MetricsLogged(key=key_of(1), metrics=tuple(history[:1]))])
    looked_at: list[str] = []
    identity = rows._identity
    monkeypatch.setattr(
        rows, "_identity", lambda table, row: (looked_at.append(table.__tablename__), identity(table, row))[1]
    )
    news = [replace(history[0], update=n) for n in (300, 1)]
    made.record([MetricsLogged(key=key_of(k), metrics=(one,)) for k, one in enumerate(news)])
    assert looked_at.count("metrics") == len(news)
    assert len(tables_of(embedded_uri(home))["metrics"]) == 303
