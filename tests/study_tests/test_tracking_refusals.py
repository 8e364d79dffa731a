"""The sink on a real MLflow database: what that will not have, for now or ever, holds up nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from study.outcome import failed_outcome
from study.tracking.rows import Rows
from study.tracking.sink import MlflowSink
from study_tests.mlflow_book import FIRST, FLUSH_S, SECOND, card, reported, run_of_trial, wait_until

pytestmark = pytest.mark.usefixtures("each_way")


def test_sink_holds_entries_while_the_experiment_is_deleted(
    sink: MlflowSink, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink.open_trial(card(FIRST))
    wait_until(lambda: sink.pending() == 0)
    experiment = client.get_experiment_by_name("demo").experiment_id
    client.delete_experiment(experiment)
    sink.log_metrics(FIRST, reported(10, 0.5))
    wait_until(lambda: "experiment 'demo' must not be deleted" in (sink.last_error() or ""))
    assert sink.pending() == 1
    client.restore_experiment(experiment)
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None
    assert run_of_trial(client, FIRST).data.metrics == {"loss": 0.5}


def test_sink_gives_a_trial_a_new_run_when_its_run_is_deleted(sink: MlflowSink, client: MlflowClient) -> None:
    sink.open_trial(card(FIRST))
    wait_until(lambda: sink.pending() == 0)
    deleted = run_of_trial(client, FIRST).info.run_id
    client.delete_run(deleted)
    sink.log_metrics(FIRST, reported(10, 0.5))
    assert sink.close(FLUSH_S) == 0
    assert run_of_trial(client, FIRST).info.run_id != deleted
    assert run_of_trial(client, FIRST).data.metrics == {"loss": 0.5}


def test_sink_puts_an_entry_aside_that_mlflow_refuses(sink: MlflowSink, client: MlflowClient, home: Path) -> None:
    sink.open_trial(card(FIRST, **{"learning[0]": 0.1}))
    sink.open_trial(card(SECOND, learning_rate=0.1))
    sink.log_metrics(SECOND, reported(10, 0.5))
    assert sink.close(FLUSH_S) == 0
    assert "1 entries are kept in" in (sink.last_error() or "")
    assert "learning[0]" in (home / "spool" / "refused.jsonl").read_text()
    assert run_of_trial(client, SECOND).data.metrics == {"loss": 0.5}


def test_sink_offers_an_entry_three_times_to_a_server_that_refuses_it(
    sink: MlflowSink, client: MlflowClient, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    refusals = 0

    def hesitant(real: Callable[..., None]) -> Callable[..., None]:
        def write(*passed: Any, **named: Any) -> None:
            nonlocal refusals
            if refusals < 2:
                refusals += 1
                raise MlflowException("not now", INVALID_PARAMETER_VALUE)
            real(*passed, **named)

        return write

    monkeypatch.setattr(SqlAlchemyStore, "log_batch", hesitant(SqlAlchemyStore.log_batch))
    monkeypatch.setattr(Rows, "write", hesitant(Rows.write))
    sink.log_metrics(FIRST, reported(10, 0.5))
    assert sink.close(FLUSH_S) == 0
    assert refusals == 2
    assert not (home / "spool" / "refused.jsonl").exists()
    assert run_of_trial(client, FIRST).data.metrics == {"loss": 0.5}


def test_sink_shortens_words_that_are_longer_than_mlflow_takes(sink: MlflowSink, client: MlflowClient) -> None:
    sink.open_trial(card(FIRST, init=7000 * "x"))
    sink.close_trials([(FIRST, failed_outcome(f"ValueError: {7000 * 'y'}"), None)])
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None
    run = run_of_trial(client, FIRST)
    assert run.data.params["init"] == 5000 * "x"
    assert run.data.tags["longlag.reason"].startswith("ValueError: yyy")
    assert 1000 < len(run.data.tags["longlag.reason"]) <= 5000
