"""The sink on a real MLflow database: what a study's calls become, and that nothing is lost or written twice."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from study.errors import LonglagError, UserError
from study.outcome import Metric, Status, TrialKey, failed_outcome
from study.tracking import server
from study.tracking.sink import MlflowSink, download_weights, embedded_uri
from study_tests.mlflow_book import (
    FIRST,
    FLUSH_S,
    OUTCOME,
    SECOND,
    artifacts_of,
    card,
    reported,
    run_of_trial,
    runs_of_study,
    sink_of,
    tell_all,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("each_way")


def test_sink_records_a_complete_trial(sink: MlflowSink, client: MlflowClient, home: Path) -> None:
    weights = home / "w.safetensors"
    weights.write_bytes(b"tensors")
    tell_all(sink, weights)
    sink.close_trials([(FIRST, OUTCOME, None)])
    assert sink.close(FLUSH_S) == 0
    run = run_of_trial(client, FIRST)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "lstm/0"
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("longlag.")}
    assert tags == {
        "longlag.study": "demo",
        "longlag.model": "lstm",
        "longlag.task": "adding",
        "longlag.cell": "lstm",
        "longlag.trial": "demo/lstm/0",
        "longlag.status": "complete",
        "longlag.diverged": "false",
        "longlag.logged_updates": "30",
        "longlag.bound": "the bound left it open, measured: vanishing",
    }
    assert run.data.params == {"learning_rate": "0.1"}
    low, high = OUTCOME.rungs[1].interval
    assert (
        run.data.metrics.items()
        >= {
            "dependency_length": 8.0,
            "objective": 8.25,
            "skill": 0.25,
            "diverged": 0.0,
            "n_updates": 40.0,
            "error/10": 0.005,
            "error/20": 0.3,
            "error/confirmed": 0.006,
            "error/20/low": low,
            "error/20/high": high,
            "best/loss": 0.1,
            "best/interim/objective": 3.0,
            "gradient/norm/rnn.weight_hh": 7.5,
        }.items()
    )
    assert [row.step for row in client.get_metric_history(run.info.run_id, "loss")] == [10, 20, 30]
    assert artifacts_of(client, run) == {
        "error_flow.json",
        "error_flow.svg",
        "ladder.svg",
        "lyapunov.json",
        "study.yaml",
        "weights.safetensors",
    }
    assert not weights.exists()
    folder = Path(client.download_artifacts(run.info.run_id, "", str(home)))
    assert json.loads((folder / "error_flow.json").read_text()) == {
        "g": [1.0, 0.1, 0.0, None],
        "parts": {"forget": [0.5, None]},
    }
    assert json.loads((folder / "lyapunov.json").read_text()) == {"nats_per_step": [0.25, None]}
    assert (folder / "study.yaml").read_text() == "name: 0\n"
    assert (folder / "ladder.svg").read_text().rstrip().endswith("</svg>")


def test_sink_keeps_artifacts_beside_an_embedded_database(sink: MlflowSink, home: Path, client: MlflowClient) -> None:
    sink.open_study(parameters={}, specification="name: demo\n")
    assert sink.close(FLUSH_S) == 0
    (run,) = runs_of_study(client)
    assert (home / "artifacts" / "demo" / run.info.run_id / "artifacts" / "study.yaml").is_file()


def test_sink_records_the_study_as_parent_run(sink: MlflowSink, client: MlflowClient) -> None:
    tell_all(sink, None)
    outcomes = {FIRST: OUTCOME, SECOND: replace(OUTCOME, dependency_length=16)}
    sink.close_study(status="done", outcomes=outcomes, seconds={"training": 3.5})
    assert sink.close(FLUSH_S) == 0
    (parent,) = [run for run in runs_of_study(client) if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "demo"
    assert parent.data.tags["longlag.status"] == "done"
    assert parent.data.params == {"task": "adding"}
    metrics = parent.data.metrics
    assert 0 < metrics.pop("seconds/tracking") < FLUSH_S
    assert metrics == {"dependency_length/lstm": 16.0, "seconds/training": 3.5}
    assert artifacts_of(client, parent) == {"answer.png", "study.yaml"}
    for key in (FIRST, SECOND):
        assert run_of_trial(client, key).data.tags["mlflow.parentRunId"] == parent.info.run_id


@pytest.mark.parametrize(
    ("status", "expected"),
    [("done", "FINISHED"), ("stopped", "KILLED"), ("interrupted", "KILLED"), ("failed", "FAILED")],
)
def test_sink_ends_the_parent_run_as_the_study_ended(
    sink: MlflowSink, client: MlflowClient, status: str, expected: str
) -> None:
    sink.close_study(status=status)
    assert sink.close(FLUSH_S) == 0
    (parent,) = runs_of_study(client)
    assert parent.info.status == expected
    assert artifacts_of(client, parent) == set()


def test_sink_finishes_a_pruned_trial_and_fails_a_failed_one(sink: MlflowSink, client: MlflowClient) -> None:
    pruned = replace(OUTCOME, status=Status.PRUNED, diverged=True)
    failed = failed_outcome("Traceback ...\nRuntimeError: out of memory\n")
    sink.close_trials([(FIRST, pruned, None), (SECOND, failed, None)])
    assert sink.close(FLUSH_S) == 0
    pruned, failed = run_of_trial(client, FIRST), run_of_trial(client, SECOND)
    assert pruned.info.status == "FINISHED"
    assert pruned.data.tags["longlag.status"] == "pruned"
    assert pruned.data.tags["longlag.diverged"] == "true"
    assert pruned.data.metrics["diverged"] == 1.0
    assert artifacts_of(client, pruned) == {"error_flow.json", "error_flow.svg", "ladder.svg", "lyapunov.json"}
    assert failed.info.status == "FAILED"
    assert failed.data.tags["longlag.status"] == "failed"
    assert failed.data.tags["longlag.reason"] == "RuntimeError: out of memory"
    # Nothing was measured, and a dependency length of 0 would claim that something was.
    assert failed.data.metrics == {}
    assert artifacts_of(client, failed) == {"reason.txt"}


def test_sink_takes_an_interrupted_trial_up_in_the_same_run(home: Path, client: MlflowClient) -> None:
    first = sink_of(home)
    first.open_trial(card(FIRST, clip_norm=math.inf))
    for update in (10, 20, 30):
        first.log_metrics(FIRST, reported(update, 0.5))
    first.interrupt_trial(FIRST)
    assert first.close(FLUSH_S) == 0
    before = run_of_trial(client, FIRST)
    assert before.info.status == "KILLED"
    assert before.data.tags["longlag.status"] == "interrupted"

    # Trained again from a checkpoint after update 10, with other times, and another parameter asked of it in vain.
    second = sink_of(home)
    second.open_trial(card(FIRST, clip_norm=1.0))
    for update in (20, 30, 40):
        second.log_metrics(FIRST, [replace(metric, time_ms=9_000_000) for metric in reported(update, 0.5)])
    wait_until(lambda: second.pending() == 0)
    during = run_of_trial(client, FIRST)
    assert during.info.run_id == before.info.run_id
    assert during.info.status == "RUNNING"
    assert during.data.tags["longlag.status"] == "running"
    assert during.data.params == {"clip_norm": "inf"}
    history = client.get_metric_history(before.info.run_id, "loss")
    assert [(row.step, row.timestamp) for row in history] == [
        (10, 1_000_010),
        (20, 1_000_020),
        (30, 1_000_030),
        (40, 9_000_000),
    ]
    second.close_trials([(FIRST, OUTCOME, None)])
    assert second.close(FLUSH_S) == 0
    assert run_of_trial(client, FIRST).info.status == "FINISHED"


def test_sink_merges_more_metrics_than_one_request_takes(sink: MlflowSink, client: MlflowClient) -> None:
    for update in range(2600):
        sink.log_metrics(FIRST, reported(update, 0.1 * update))
    assert sink.close(FLUSH_S) == 0
    run = run_of_trial(client, FIRST)
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 2600
    assert run.data.tags["longlag.logged_updates"] == "2599"


def test_sink_drops_nan_and_sends_infinity(sink: MlflowSink, client: MlflowClient) -> None:
    names = {"a": math.nan, "b": math.inf, "c": -math.inf}
    sink.log_metrics(FIRST, [Metric(name=name, value=value, update=1, time_ms=1) for name, value in names.items()])
    sink.log_metrics(FIRST, [Metric(name="a", value=math.nan, update=2, time_ms=1)])
    assert sink.close(FLUSH_S) == 0
    # The largest double is what MLflow stores, and what its charts show as infinite.
    assert run_of_trial(client, FIRST).data.metrics == {"b": sys.float_info.max, "c": -sys.float_info.max}


@pytest.mark.parametrize("name", ["weight[0]", "", "a//b", "/a", "a/", "../a", "a/../b", "größe", "x" * 251, "a\n"])
def test_sink_refuses_metric_names_that_mlflow_would_refuse(sink: MlflowSink, name: str) -> None:
    with pytest.raises(ValueError, match="a metric's name must be"):
        sink.log_metrics(FIRST, [Metric(name=name, value=1.0, update=1, time_ms=1)])
    assert sink.pending() == 0


def test_trial_key_tells_the_runs_of_trials_from_others(sink: MlflowSink, client: MlflowClient) -> None:
    tell_all(sink, None)
    assert sink.close(FLUSH_S) == 0
    experiment = client.get_experiment_by_name("demo").experiment_id
    client.create_run(experiment, tags={"longlag.trial": "somebody's own"})
    keyed = {server.trial_key(run): run.info.run_id for run in runs_of_study(client)}
    found = {key: run_id for key, run_id in keyed.items() if key is not None}
    assert found == {key: run_of_trial(client, key).info.run_id for key in (FIRST, SECOND)} == sink.run_ids()


def test_runs_of_reads_more_runs_than_a_page(
    sink: MlflowSink, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PAGE", 2)
    tell_all(sink, None)
    third = TrialKey(study="demo", model="elman", number=7)
    sink.open_trial(card(third))
    assert sink.close(FLUSH_S) == 0
    assert {server.trial_key(run) for run in runs_of_study(client)} == {None, FIRST, SECOND, third}


def test_an_end_is_durable_at_once_and_openings_and_metrics_wait_for_it(
    sink: MlflowSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def counted(file: int) -> None:
        fsync(file)
        synced.append(threading.current_thread())

    monkeypatch.setattr(os, "fsync", counted)
    for key in (FIRST, SECOND):
        sink.open_trial(card(key))
        sink.log_metrics(key, reported(10, 1.0))
    # The thread that ships has its own.
    assert threading.current_thread() not in synced
    sink.close_trials([(FIRST, OUTCOME, None)])
    assert synced.count(threading.current_thread()) == 1


def test_download_weights_refuses_a_run_without_any(sink: MlflowSink, home: Path, client: MlflowClient) -> None:
    sink.open_trial(card(FIRST))
    assert sink.close(FLUSH_S) == 0
    run_id = run_of_trial(client, FIRST).info.run_id
    with pytest.raises(UserError, match=f"a trial must have left weights to be exported, but run {run_id} has none"):
        download_weights(embedded_uri(home), run_id, home)


def test_download_weights_fails_for_a_run_that_is_not_there(home: Path) -> None:
    with pytest.raises(LonglagError, match="the weights of run nobody cannot be read"):
        download_weights(embedded_uri(home), "nobody", home)


def test_sink_imports_no_vendor_before_it_is_used() -> None:
    code = "import sys, study.tracking.sink; sys.exit(bool({'mlflow', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
