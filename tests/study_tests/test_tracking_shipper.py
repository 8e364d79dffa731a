"""What is shipped together: trials are told as a whole, and what is told of those under way waits a while."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from study.outcome import Metric, TrialKey
from study.tracking import place, shipper
from study.tracking.journal import READ_BYTES, JournalReader, n_pending
from study.tracking.place import Place
from study.tracking.sink import MlflowSink, embedded_uri
from study_tests.mlflow_book import (
    FIRST,
    FLUSH_S,
    OUTCOME,
    SECOND,
    ThreadShipping,
    card,
    everything,
    reported,
    run_of_trial,
    sink_of,
    wait_until,
)

THIRD = TrialKey(study="demo", model="lstm", number=2)


@pytest.fixture
def patient(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials under way wait for longer than any test takes, other than the home has it."""
    monkeypatch.setattr(shipper, "EVERY_S", 0.01)
    monkeypatch.setattr(shipper, "HOLD_S", 3600.0)
    monkeypatch.setattr(shipper, "ASKED_S", 3600.0)


def measured_now(update: int, *values: float) -> list[Metric]:
    return [replace(metric, time_ms=time.time_ns() // 1_000_000) for metric in reported(update, *values)]


@pytest.mark.usefixtures("patient")
def test_a_trial_costs_four_calls_of_a_server_whatever_is_shipped_in_between(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not at the top: what it warns of is ignored from the first connection on.
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    calls: list[str] = []

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(place, "rows_of", lambda client, experiment_id: None)
    shipping = ThreadShipping(embedded_uri(home))
    sink = MlflowSink(home / "spool", shipping, study="demo")
    sink.open_study(parameters={}, specification="name: demo\n")
    wait_until(lambda: sink.pending() == 0)
    for owner, name in [
        *((SqlAlchemyStore, name) for name in ("create_run", "get_run", "log_batch", "update_run_info")),
        (Place, "upload"),
    ]:
        monkeypatch.setattr(owner, name, counting(name, getattr(owner, name)))
    keys = [FIRST, SECOND, THIRD]
    for key in keys:
        sink.open_trial(card(key, learning_rate=0.1))
    for update in (10, 20, 30):
        for key in keys:
            sink.log_metrics(key, measured_now(update, 0.5, 1.0, 2.0))
    for n_ended, key in enumerate(keys, start=1):
        sink.close_trials([(key, OUTCOME, None)])
        shipping.wait_for_a_look()
        assert calls.count("update_run_info") == n_ended
    assert sink.close(FLUSH_S) == 0
    assert {name: calls.count(name) for name in set(calls)} == dict.fromkeys(
        ("create_run", "log_batch", "update_run_info", "upload"), len(keys)
    )


@pytest.mark.usefixtures("patient")
def test_sink_tells_a_trial_at_once_when_it_ends_and_lets_those_under_way_wait(
    home: Path, client: MlflowClient
) -> None:
    shipping = ThreadShipping(embedded_uri(home))
    sink = MlflowSink(home / "spool", shipping, study="demo")
    for key in (FIRST, SECOND, THIRD):
        sink.open_trial(card(key, learning_rate=0.1))
        sink.log_metrics(key, measured_now(10, 0.5))
    sink.close_trials([(SECOND, OUTCOME, None)])
    sink.interrupt_trial(THIRD)
    shipping.wait_for_a_look()
    assert set(sink.run_ids()) == {SECOND, THIRD}
    assert run_of_trial(client, SECOND).info.status == "FINISHED"
    assert run_of_trial(client, THIRD).info.status == "KILLED"
    assert "loss" in run_of_trial(client, SECOND).data.metrics
    died = Path(shutil.copytree(home / "spool", home / "died"))
    sink.log_metrics(FIRST, measured_now(20, 0.25))
    assert sink.close(FLUSH_S) == 0
    assert (home / "spool" / "journal.jsonl").read_bytes() == b""
    history = client.get_metric_history(run_of_trial(client, FIRST).info.run_id, "loss")
    assert [(row.step, row.value) for row in history] == [(10, 0.5), (20, 0.25)]

    # A driver that dies while lines wait leaves all from the first of them on, also what MLflow has already.
    once = everything(client)
    assert n_pending(died) == 8
    assert sink_of(home, died).close(FLUSH_S) == 0
    assert everything(client) == once


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("limit", ["HOLD_S", "ASKED_S"])
def test_sink_tells_of_a_trial_under_way_after_a_while(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    sink = sink_of(home)
    sink.open_trial(card(FIRST))
    if limit == "HOLD_S":
        sink.log_metrics(FIRST, measured_now(10, 0.5))
    monkeypatch.setattr(shipper, limit, 0.2)
    wait_until(lambda: sink.pending() == 0)
    assert run_of_trial(client, FIRST).info.status == "RUNNING"
    assert sink.close(FLUSH_S) == 0


@pytest.mark.usefixtures("patient")
def test_sink_holds_no_more_than_half_of_what_one_look_shows(home: Path, client: MlflowClient) -> None:
    sink = sink_of(home)
    sink.open_trial(card(FIRST))
    sink.open_trial(replace(card(SECOND), configuration="x" * (READ_BYTES // 2 + 1)))
    wait_until(lambda: sink.pending() == 0)
    for key in (FIRST, SECOND):
        assert run_of_trial(client, key).info.status == "RUNNING"
    assert sink.close(FLUSH_S) == 0
    assert not (home / "spool" / "refused.jsonl").exists()


@pytest.mark.usefixtures("patient")
def test_a_trial_that_is_taken_up_again_is_told_as_soon_as_its_metrics_would_be(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_of(home)
    sink.open_trial(card(FIRST))
    sink.interrupt_trial(FIRST)
    wait_until(lambda: sink.pending() == 0)
    assert run_of_trial(client, FIRST).info.status == "KILLED"
    monkeypatch.setattr(shipper, "HOLD_S", 0.2)
    sink.open_trial(card(SECOND))
    sink.open_trial(card(FIRST))
    wait_until(lambda: run_of_trial(client, FIRST).info.status == "RUNNING")
    assert set(sink.run_ids()) == {FIRST}
    assert sink.close(FLUSH_S) == 0


def test_a_full_disk_keeps_the_cursor_from_moving_and_nothing_from_mlflow(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, full = JournalReader.advance, [True]

    def failing(reader: JournalReader, end: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        advance(reader, end)

    monkeypatch.setattr(JournalReader, "advance", failing)
    sink = sink_of(home)
    sink.open_trial(card(FIRST))
    wait_until(lambda: sink.last_error() == "tracking: No space left on device")
    sink.open_trial(card(SECOND))
    wait_until(lambda: len(sink.run_ids()) == 2)
    for key in (FIRST, SECOND):
        assert run_of_trial(client, key).info.status == "RUNNING"
    assert sink.pending() == 2
    full.clear()
    wait_until(lambda: sink.pending() == 0)
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None


def test_sink_tells_that_another_process_still_ships_and_waits_for_its_end(home: Path, client: MlflowClient) -> None:
    (home / "spool").mkdir()
    orphan = JournalReader(home / "spool")
    sink = sink_of(home)
    sink.open_trial(card(FIRST))
    wait_until(lambda: "must be read by one process" in (sink.last_error() or ""))
    assert sink.pending() == 1
    orphan.close()
    wait_until(lambda: sink.pending() == 0)
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None
    assert run_of_trial(client, FIRST).info.status == "RUNNING"
