"""The sink on a real MLflow database: drivers that die, answers that are lost: nothing is lost or written twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from study.errors import LonglagError
from study.tracking import shipper
from study.tracking.place import Place
from study.tracking.rows import Rows
from study.tracking.sink import MlflowSink, download_weights, embedded_uri
from study_tests.mlflow_book import (
    FIRST,
    FLUSH_S,
    OUTCOME,
    SECOND,
    card,
    everything,
    reported,
    run_of_trial,
    runs_of_study,
    sink_of,
    tell_all,
    wait_until,
)

pytestmark = pytest.mark.usefixtures("each_way")


def _copied_spool(home: Path, act: Callable[[MlflowSink], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a driver leaves that dies before anything is shipped; then ship it."""
    with monkeypatch.context() as patch:
        patch.setattr(shipper.Shipper, "run", lambda self: None)
        dead = sink_of(home)
        act(dead)
        assert dead.close(0) > 0
    return Path(shutil.copytree(home / "spool", home / "kept"))


def test_sink_ships_what_a_dead_driver_left(home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _copied_spool(home, lambda dead: tell_all(dead, None), monkeypatch)
    sink = sink_of(home)
    assert sink.close(FLUSH_S) == 0
    assert run_of_trial(client, FIRST).info.status == "FINISHED"
    assert sink.run_ids() == {key: run_of_trial(client, key).info.run_id for key in (FIRST, SECOND)}


@pytest.mark.parametrize("n_lines", [0, 3, 8, 10])
def test_sink_writes_nothing_twice_when_the_cursor_was_not_advanced(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, n_lines: int
) -> None:
    weights = home / "w.safetensors"
    weights.write_bytes(b"tensors")
    kept = _copied_spool(home, lambda dead: tell_all(dead, weights), monkeypatch)
    assert sink_of(home).close(FLUSH_S) == 0
    once = everything(client)
    assert len(once) == 3
    lines = (kept / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (kept / "cursor").write_text(str(len(b"".join(lines[:n_lines]))))
    assert sink_of(home, kept).close(FLUSH_S) == 0
    assert everything(client) == once


def test_sink_leaves_out_what_was_trained_again_also_when_it_dies_while_shipping_it(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sink_of(home)
    first.open_trial(card(FIRST))
    for update in (10, 20):
        first.log_metrics(FIRST, reported(update, 0.5))
    assert first.close(FLUSH_S) == 0

    def train_again(sink: MlflowSink) -> None:
        sink.open_trial(card(FIRST))
        for update in (20, 30):
            sink.log_metrics(FIRST, [replace(metric, time_ms=9_000_000) for metric in reported(update, 0.5)])

    kept = _copied_spool(home, train_again, monkeypatch)
    assert sink_of(home).close(FLUSH_S) == 0
    # The metrics had arrived, the cursor stood behind the trial's opening, and the next driver knows nothing of it.
    (kept / "cursor").write_text(str(len((kept / "journal.jsonl").read_bytes().splitlines(keepends=True)[0])))
    assert sink_of(home, kept).close(FLUSH_S) == 0
    history = client.get_metric_history(run_of_trial(client, FIRST).info.run_id, "loss")
    assert [row.step for row in history] == [10, 20, 30]


def test_sink_leaves_out_what_was_trained_again_after_the_trial_had_ended(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_of(home)
    # The second time is that of a driver that died before Optuna had the outcome.
    for updates, time_ms in ((10,), 1_000_000), ((10, 20), 9_000_000):
        sink.open_trial(card(FIRST))
        for update in updates:
            sink.log_metrics(FIRST, [replace(metric, time_ms=time_ms) for metric in reported(update, 0.5)])
        sink.close_trials([(FIRST, OUTCOME, None)])
        wait_until(lambda: sink.pending() == 0)
    assert sink.close(FLUSH_S) == 0
    history = client.get_metric_history(run_of_trial(client, FIRST).info.run_id, "loss")
    assert [row.step for row in history] == [10, 20]


_DRIVER = """
import sys, threading
from pathlib import Path
from study.outcome import Metric, TrialKey
from study.tracking import shipper
from study_tests.mlflow_book import sink_of
shipper.EVERY_S = shipper.HOLD_S = 0
sink = sink_of(Path(sys.argv[1]))
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
    command, finds = [sys.executable, "-c", _DRIVER, str(home)], {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | finds) as driver:
        assert driver.stdout is not None
        n_logged = 0
        for n_shipped in driver.stdout:
            n_logged += 1
            if int(n_shipped) > 100:
                break
        driver.kill()
        n_logged += len(driver.stdout.read().splitlines())
    assert sink_of(home).close(FLUSH_S) == 0
    for key in (FIRST, SECOND):
        steps = [row.step for row in client.get_metric_history(run_of_trial(client, key).info.run_id, "loss")]
        assert steps == list(range(len(steps)))
        assert len(steps) >= n_logged


@pytest.mark.parametrize(
    "call",
    [
        (MlflowClient, "create_experiment"),
        (MlflowClient, "create_run"),
        (MlflowClient, "log_batch"),
        (MlflowClient, "set_terminated"),
        (Rows, "places"),
        (Rows, "write"),
        (Place, "upload"),
    ],
)
def test_sink_writes_nothing_twice_when_an_answer_is_lost(
    home: Path,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    call: tuple[type, str],
) -> None:
    owner, method = call
    if owner is Rows and "client" in request.node.name:
        pytest.skip("a server is not sent rows")
    calls: list[str] = []
    real = getattr(owner, method)

    def losing(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        calls.append(method)
        if len(calls) % 4 == 1:
            raise ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(owner, method, losing)
    sink = sink_of(home)
    tell_all(sink, None)
    assert sink.close(FLUSH_S) == 0
    assert calls
    found = {run.info.run_name: run for run in runs_of_study(client)}
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
    assert len(runs_of_study(client)) == 3


def test_sink_puts_a_corrupt_line_aside(home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _copied_spool(home, lambda dead: tell_all(dead, None), monkeypatch)
    path = home / "spool" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = b"\0" * 40 + b"\n"
    path.write_bytes(b"".join(lines))
    sink = sink_of(home)
    assert sink.close(FLUSH_S) == 0
    assert (home / "spool" / "refused.jsonl").read_bytes() == lines[4]
    assert len(client.get_metric_history(run_of_trial(client, FIRST).info.run_id, "loss")) == 3
    assert len(client.get_metric_history(run_of_trial(client, SECOND).info.run_id, "loss")) == 2


def test_sink_keeps_the_weights_until_they_are_uploaded(
    home: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = home / "w.safetensors"
    weights.write_bytes(b"tensors")
    real = Place.upload

    def failing(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no artifact store")

    monkeypatch.setattr(Place, "upload", failing)
    sink = sink_of(home)
    sink.close_trials([(FIRST, OUTCOME, weights)])
    wait_until(lambda: sink.last_error() == "tracking: no artifact store")
    assert weights.read_bytes() == b"tensors"
    assert "FINISHED" not in [run.info.status for run in runs_of_study(client)]
    monkeypatch.setattr(Place, "upload", real)
    assert sink.close(FLUSH_S) == 0
    assert not weights.exists()
    target = download_weights(embedded_uri(home), run_of_trial(client, FIRST).info.run_id, home / "new" / "folder")
    assert target == home / "new" / "folder" / "weights.safetensors"
    assert target.read_bytes() == b"tensors"


def test_sink_refuses_a_spool_that_is_in_use(sink: MlflowSink, home: Path) -> None:
    with pytest.raises(LonglagError, match="a journal must be written by one process"):
        sink_of(home)
