"""The sink on a real MLflow database: what a study's calls become, and that nothing is lost or written twice."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from study.errors import LonglagError, UserError
from study.outcome import Metric, Outcome, Rung, Status, TrialKey, failed_outcome
from study.tracking import server, shipper
from study.tracking.sink import MlflowSink, TrialCard, download_weights, embedded_uri, find_run_ids

FLUSH_S = 60.0

FIRST, SECOND = (TrialKey(study="demo", model="lstm", number=number) for number in (0, 1))

OUTCOME = Outcome(
    status=Status.COMPLETE,
    dependency_length=8,
    skill=0.25,
    diverged=False,
    n_updates=40,
    rungs=(
        Rung(length=10, lag=8, n_failed=5, n_sequences=1000),
        Rung(length=20, lag=16, n_failed=300, n_sequences=1000),
    ),
    error_flow=(1.0, 0.1, 0.0, math.inf),
    metrics={"gradient/horizon": 2.0},
)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to create."""
    home = tmp_path_factory.mktemp("template")
    server.connect(embedded_uri(home)).search_experiments()
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setattr(shipper, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(shipper, "LONGEST_WAIT_S", 0.05)
    return tmp_path


@pytest.fixture
def client(home: Path) -> MlflowClient:
    return server.connect(embedded_uri(home))


@pytest.fixture
def sink(home: Path) -> Iterator[MlflowSink]:
    made = _sink(home)
    yield made
    made.close(0)


def _sink(home: Path) -> MlflowSink:
    return MlflowSink(embedded_uri(home), home / "spool", study="demo")


def _card(key: TrialKey, **parameters: str | float | int) -> TrialCard:
    return TrialCard(key=key, task="adding", cell="lstm", parameters=parameters, configuration=f"name: {key.number}\n")


def _report(update: int, *values: float) -> list[Metric]:
    return [
        Metric(name=name, value=value, update=update, time_ms=1_000_000 + update)
        for name, value in zip(("loss", "interim/objective", "gradient/norm/rnn.weight_hh"), values, strict=False)
    ]


def _tell_all(sink: MlflowSink, weights: Path | None) -> None:
    """A study of two trials with everything that can happen in it."""
    sink.open_study(parameters={"task": "adding"}, specification="name: demo\n")
    sink.open_trial(_card(FIRST, learning_rate=0.1))
    sink.open_trial(_card(SECOND, learning_rate=0.2))
    for update, loss, objective in ((10, 0.5, 1.0), (20, 0.1, 3.0), (30, 0.3, 2.0)):
        for key in (FIRST, SECOND):
            sink.log_metrics(key, _report(update, loss, objective, 7.5))
    sink.close_trial(FIRST, OUTCOME, weights, figures=False)
    sink.interrupt_trial(SECOND)
    sink.close_study(status="stopped")


def _run(client: MlflowClient, key: TrialKey) -> Run:
    """The only run of a trial."""
    (run,) = [run for run in _runs(client) if run.data.tags.get("longlag.trial") == str(key)]
    return run


def _runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("demo")
    return [] if experiment is None else server.runs_of(client, experiment.experiment_id)


def _artifacts(client: MlflowClient, run: Run) -> set[str]:
    return {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def _everything(client: MlflowClient) -> list[tuple[Any, ...]]:
    """All that MLflow holds of the study, every value of every metric included."""
    return [
        (
            run.info.run_id,
            run.info.status,
            run.info.end_time,
            run.data.tags,
            run.data.params,
            {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics},
            _artifacts(client, run),
        )
        for run in _runs(client)
    ]


def _until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    deadline, pause = time.monotonic() + FLUSH_S, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.02)


def test_sink_records_a_complete_trial(sink: MlflowSink, client: MlflowClient, home: Path) -> None:
    weights = home / "w.safetensors"
    weights.write_bytes(b"tensors")
    _tell_all(sink, weights)
    sink.close_trial(FIRST, OUTCOME, None)
    assert sink.close(FLUSH_S) == 0
    run = _run(client, FIRST)
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
            "error/20/low": low,
            "error/20/high": high,
            "best/loss": 0.1,
            "best/interim/objective": 3.0,
            "gradient/norm/rnn.weight_hh": 7.5,
        }.items()
    )
    assert [row.step for row in client.get_metric_history(run.info.run_id, "loss")] == [10, 20, 30]
    assert _artifacts(client, run) == {
        "error_flow.json",
        "error_flow.png",
        "ladder.png",
        "study.yaml",
        "weights.safetensors",
    }
    assert not weights.exists()
    folder = Path(client.download_artifacts(run.info.run_id, "", str(home)))
    assert json.loads((folder / "error_flow.json").read_text()) == {"g": [1.0, 0.1, 0.0, None]}
    assert (folder / "study.yaml").read_text() == "name: 0\n"
    assert (folder / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_sink_keeps_artifacts_beside_an_embedded_database(sink: MlflowSink, home: Path, client: MlflowClient) -> None:
    sink.open_study(parameters={}, specification="name: demo\n")
    assert sink.close(FLUSH_S) == 0
    (run,) = _runs(client)
    assert (home / "artifacts" / "demo" / run.info.run_id / "artifacts" / "study.yaml").is_file()


def test_sink_records_the_study_as_parent_run(sink: MlflowSink, client: MlflowClient) -> None:
    _tell_all(sink, None)
    sink.close_study(status="done", outcomes={FIRST: OUTCOME, SECOND: replace(OUTCOME, dependency_length=16)})
    assert sink.close(FLUSH_S) == 0
    (parent,) = [run for run in _runs(client) if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "demo"
    assert parent.data.tags["longlag.status"] == "done"
    assert parent.data.params == {"task": "adding"}
    assert parent.data.metrics == {"dependency_length/lstm": 16.0}
    assert _artifacts(client, parent) == {"answer.png", "study.yaml"}
    for key in (FIRST, SECOND):
        assert _run(client, key).data.tags["mlflow.parentRunId"] == parent.info.run_id


@pytest.mark.parametrize(
    ("status", "expected"),
    [("done", "FINISHED"), ("stopped", "KILLED"), ("interrupted", "KILLED"), ("failed", "FAILED")],
)
def test_sink_ends_the_parent_run_as_the_study_ended(
    sink: MlflowSink, client: MlflowClient, status: str, expected: str
) -> None:
    sink.close_study(status=status)
    assert sink.close(FLUSH_S) == 0
    (parent,) = _runs(client)
    assert parent.info.status == expected
    assert _artifacts(client, parent) == set()


def test_sink_finishes_a_pruned_trial_and_fails_a_failed_one(sink: MlflowSink, client: MlflowClient) -> None:
    sink.close_trial(FIRST, replace(OUTCOME, status=Status.PRUNED, diverged=True), None, figures=False)
    sink.close_trial(SECOND, failed_outcome("Traceback ...\nRuntimeError: out of memory\n"), None)
    assert sink.close(FLUSH_S) == 0
    pruned, failed = _run(client, FIRST), _run(client, SECOND)
    assert pruned.info.status == "FINISHED"
    assert pruned.data.tags["longlag.status"] == "pruned"
    assert pruned.data.tags["longlag.diverged"] == "true"
    assert pruned.data.metrics["diverged"] == 1.0
    assert _artifacts(client, pruned) == {"error_flow.json"}
    assert failed.info.status == "FAILED"
    assert failed.data.tags["longlag.status"] == "failed"
    assert failed.data.tags["longlag.reason"] == "RuntimeError: out of memory"
    # Nothing was measured, and a dependency length of 0 would claim that something was.
    assert failed.data.metrics == {}
    assert _artifacts(client, failed) == {"reason.txt"}


def test_sink_takes_an_interrupted_trial_up_in_the_same_run(home: Path, client: MlflowClient) -> None:
    first = _sink(home)
    first.open_trial(_card(FIRST, clip_norm=math.inf))
    for update in (10, 20, 30):
        first.log_metrics(FIRST, _report(update, 0.5))
    first.interrupt_trial(FIRST)
    assert first.close(FLUSH_S) == 0
    before = _run(client, FIRST)
    assert before.info.status == "KILLED"
    assert before.data.tags["longlag.status"] == "interrupted"

    # Trained again from a checkpoint after update 10, with other times, and another parameter asked of it in vain.
    second = _sink(home)
    second.open_trial(_card(FIRST, clip_norm=1.0))
    for update in (20, 30, 40):
        second.log_metrics(FIRST, [replace(metric, time_ms=9_000_000) for metric in _report(update, 0.5)])
    _until(lambda: second.pending() == 0)
    during = _run(client, FIRST)
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
    second.close_trial(FIRST, OUTCOME, None, figures=False)
    assert second.close(FLUSH_S) == 0
    assert _run(client, FIRST).info.status == "FINISHED"


def test_sink_merges_more_metrics_than_one_request_takes(sink: MlflowSink, client: MlflowClient) -> None:
    for update in range(2600):
        sink.log_metrics(FIRST, _report(update, 0.1 * update))
    assert sink.close(FLUSH_S) == 0
    run = _run(client, FIRST)
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 2600
    assert run.data.tags["longlag.logged_updates"] == "2599"


def test_sink_drops_nan_and_sends_infinity(sink: MlflowSink, client: MlflowClient) -> None:
    names = {"a": math.nan, "b": math.inf, "c": -math.inf}
    sink.log_metrics(FIRST, [Metric(name=name, value=value, update=1, time_ms=1) for name, value in names.items()])
    sink.log_metrics(FIRST, [Metric(name="a", value=math.nan, update=2, time_ms=1)])
    assert sink.close(FLUSH_S) == 0
    # The largest double is what MLflow stores, and what its charts show as infinite.
    assert _run(client, FIRST).data.metrics == {"b": sys.float_info.max, "c": -sys.float_info.max}


@pytest.mark.parametrize("name", ["weight[0]", "", "a//b", "/a", "a/", "../a", "a/../b", "größe", "x" * 251, "a\n"])
def test_sink_refuses_metric_names_that_mlflow_would_refuse(sink: MlflowSink, name: str) -> None:
    with pytest.raises(ValueError, match="a metric's name must be"):
        sink.log_metrics(FIRST, [Metric(name=name, value=1.0, update=1, time_ms=1)])
    assert sink.pending() == 0


def _copied_spool(home: Path, act: Callable[[MlflowSink], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a driver leaves that dies before anything is shipped; then ship it."""
    with monkeypatch.context() as patch:
        patch.setattr(shipper.Shipper, "_run", lambda self: None)
        dead = _sink(home)
        act(dead)
        assert dead.close(0) > 0
    return Path(shutil.copytree(home / "spool", home / "kept"))


def test_sink_ships_what_a_dead_driver_left(home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _copied_spool(home, lambda dead: _tell_all(dead, None), monkeypatch)
    sink = _sink(home)
    assert sink.close(FLUSH_S) == 0
    assert _run(client, FIRST).info.status == "FINISHED"
    assert sink.run_ids() == {key: _run(client, key).info.run_id for key in (FIRST, SECOND)}


@pytest.mark.parametrize("n_lines", [0, 3, 8, 10])
def test_sink_writes_nothing_twice_when_the_cursor_was_not_advanced(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, n_lines: int
) -> None:
    weights = home / "w.safetensors"
    weights.write_bytes(b"tensors")
    kept = _copied_spool(home, lambda dead: _tell_all(dead, weights), monkeypatch)
    assert _sink(home).close(FLUSH_S) == 0
    once = _everything(client)
    assert len(once) == 3
    lines = (kept / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (kept / "cursor").write_text(str(len(b"".join(lines[:n_lines]))))
    again = MlflowSink(embedded_uri(home), kept, study="demo")
    assert again.close(FLUSH_S) == 0
    assert _everything(client) == once


_DRIVER = """
import sys, threading
from pathlib import Path
from study.outcome import Metric, TrialKey
from study.tracking.sink import MlflowSink, embedded_uri
home = Path(sys.argv[1])
sink = MlflowSink(embedded_uri(home), home / "spool", study="demo")
keys = [TrialKey(study="demo", model="lstm", number=number) for number in (0, 1)]
update = 0
while True:
    for key in keys:
        sink.log_metrics(key, [Metric(name="loss", value=1 / (1 + update), update=update, time_ms=update)])
    update += 1
    print(2 * update - sink.pending(), flush=True)
    threading.Event().wait(0.002)
"""


def test_sink_completes_what_a_killed_driver_was_shipping(home: Path, client: MlflowClient) -> None:
    with subprocess.Popen([sys.executable, "-c", _DRIVER, str(home)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        n_logged = 0
        for n_shipped in driver.stdout:
            n_logged += 1
            if int(n_shipped) > 100:
                break
        driver.kill()
        n_logged += len(driver.stdout.read().splitlines())
    assert _sink(home).close(FLUSH_S) == 0
    for key in (FIRST, SECOND):
        steps = [row.step for row in client.get_metric_history(_run(client, key).info.run_id, "loss")]
        assert steps == list(range(len(steps)))
        assert len(steps) >= n_logged


@pytest.mark.parametrize(
    "method", ["create_experiment", "create_run", "log_batch", "log_artifacts", "log_text", "set_terminated"]
)
def test_sink_writes_nothing_twice_when_an_answer_is_lost(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    calls: list[str] = []
    real = getattr(MlflowClient, method)

    def losing(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        calls.append(method)
        if len(calls) % 4 == 1:
            raise ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(MlflowClient, method, losing)
    sink = _sink(home)
    _tell_all(sink, None)
    assert sink.close(FLUSH_S) == 0
    assert calls
    found = {run.info.run_name: run for run in _runs(client)}
    assert {name: run.info.status for name, run in found.items()} == {
        "demo": "KILLED",
        "lstm/0": "FINISHED",
        "lstm/1": "KILLED",
    }
    reported = {"loss", "interim/objective", "gradient/norm/rnn.weight_hh"}
    for run in found.values():
        for name in run.data.metrics:
            n_values = len(client.get_metric_history(run.info.run_id, name))
            assert (name, n_values) == (name, 3 if name in reported else 1)
    assert reported < set(found["lstm/0"].data.metrics)
    assert len(_runs(client)) == 3


def test_sink_holds_entries_while_the_experiment_is_deleted(
    sink: MlflowSink, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink.open_trial(_card(FIRST))
    _until(lambda: sink.pending() == 0)
    experiment = client.get_experiment_by_name("demo").experiment_id
    client.delete_experiment(experiment)
    sink.log_metrics(FIRST, _report(10, 0.5))
    _until(lambda: "experiment 'demo' must not be deleted" in (sink.last_error() or ""))
    assert sink.pending() == 1
    client.restore_experiment(experiment)
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None
    assert _run(client, FIRST).data.metrics == {"loss": 0.5}


def test_sink_gives_a_trial_a_new_run_when_its_run_is_deleted(sink: MlflowSink, client: MlflowClient) -> None:
    sink.open_trial(_card(FIRST))
    _until(lambda: sink.pending() == 0)
    deleted = _run(client, FIRST).info.run_id
    client.delete_run(deleted)
    sink.log_metrics(FIRST, _report(10, 0.5))
    assert sink.close(FLUSH_S) == 0
    assert _run(client, FIRST).info.run_id != deleted
    assert _run(client, FIRST).data.metrics == {"loss": 0.5}


def test_sink_puts_an_entry_aside_that_mlflow_refuses(sink: MlflowSink, client: MlflowClient, home: Path) -> None:
    sink.open_trial(_card(FIRST, **{"learning[0]": 0.1}))
    sink.open_trial(_card(SECOND, learning_rate=0.1))
    sink.log_metrics(SECOND, _report(10, 0.5))
    assert sink.close(FLUSH_S) == 0
    assert "1 entries are kept in" in (sink.last_error() or "")
    assert "learning[0]" in (home / "spool" / "refused.jsonl").read_text()
    assert _run(client, SECOND).data.metrics == {"loss": 0.5}


def test_sink_puts_a_corrupt_line_aside(home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _copied_spool(home, lambda dead: _tell_all(dead, None), monkeypatch)
    path = home / "spool" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = b"\0" * 40 + b"\n"
    path.write_bytes(b"".join(lines))
    sink = _sink(home)
    assert sink.close(FLUSH_S) == 0
    assert (home / "spool" / "refused.jsonl").read_bytes() == lines[4]
    assert len(client.get_metric_history(_run(client, FIRST).info.run_id, "loss")) == 3
    assert len(client.get_metric_history(_run(client, SECOND).info.run_id, "loss")) == 2


def test_sink_keeps_the_weights_until_they_are_uploaded(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = home / "w.safetensors"
    weights.write_bytes(b"tensors")
    real = MlflowClient.log_artifacts

    def failing(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no artifact store")

    monkeypatch.setattr(MlflowClient, "log_artifacts", failing)
    sink = _sink(home)
    sink.close_trial(FIRST, OUTCOME, weights, figures=False)
    _until(lambda: sink.last_error() == "tracking: no artifact store")
    assert weights.read_bytes() == b"tensors"
    assert _run(client, FIRST).info.status == "RUNNING"
    monkeypatch.setattr(MlflowClient, "log_artifacts", real)
    assert sink.close(FLUSH_S) == 0
    assert not weights.exists()
    target = download_weights(embedded_uri(home), _run(client, FIRST).info.run_id, home / "new" / "folder")
    assert target == home / "new" / "folder" / "weights.safetensors"
    assert target.read_bytes() == b"tensors"


def test_sink_refuses_a_spool_that_is_in_use(sink: MlflowSink, home: Path) -> None:
    with pytest.raises(LonglagError, match="a journal must be written by one process"):
        _sink(home)


def test_find_run_ids_finds_the_trials_of_a_study(sink: MlflowSink, home: Path, client: MlflowClient) -> None:
    assert find_run_ids(embedded_uri(home), "demo") == {}
    _tell_all(sink, None)
    assert sink.close(FLUSH_S) == 0
    experiment = client.get_experiment_by_name("demo").experiment_id
    client.create_run(experiment, tags={"longlag.trial": "somebody's own"})
    found = find_run_ids(embedded_uri(home), "demo")
    assert found == {key: _run(client, key).info.run_id for key in (FIRST, SECOND)} == sink.run_ids()


def test_find_run_ids_reads_more_runs_than_a_page(
    sink: MlflowSink, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PAGE", 2)
    _tell_all(sink, None)
    sink.open_trial(_card(TrialKey(study="demo", model="elman", number=7)))
    assert sink.close(FLUSH_S) == 0
    assert len(find_run_ids(embedded_uri(home), "demo")) == 3


def test_download_weights_refuses_a_run_without_any(sink: MlflowSink, home: Path, client: MlflowClient) -> None:
    sink.open_trial(_card(FIRST))
    assert sink.close(FLUSH_S) == 0
    run_id = _run(client, FIRST).info.run_id
    with pytest.raises(UserError, match=f"a trial must have left weights to be exported, but run {run_id} has none"):
        download_weights(embedded_uri(home), run_id, home)


def test_download_weights_fails_for_a_run_that_is_not_there(home: Path) -> None:
    with pytest.raises(LonglagError, match="the weights of run nobody cannot be read"):
        download_weights(embedded_uri(home), "nobody", home)


def test_sink_imports_no_vendor_before_it_is_used() -> None:
    code = "import sys, study.tracking.sink; sys.exit(bool({'mlflow', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
