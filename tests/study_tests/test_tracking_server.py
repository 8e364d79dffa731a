"""Addresses of MLflow and what is said when nobody answers there; and a server that dies in the middle of a study."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from study.errors import LonglagError, UserError
from study.outcome import Metric, Outcome, Status, TrialKey
from study.settings import sqlite_file
from study.tracking import server, shipper
from study.tracking.server import check_tracking, embedded_uri, masked
from study.tracking.sink import MlflowSink, TrialCard, download_weights
from study_tests.mlflow_book import ThreadShipping

StartServer = Callable[[Path, int], "subprocess.Popen[bytes]"]

PATIENCE_S = 120.0
"""How long a server may take on a busy machine."""


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_embedded_uri_names_an_absolute_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert embedded_uri(Path("home")) == f"sqlite:///{tmp_path}/home/mlflow.db"
    assert sqlite_file(embedded_uri(Path("home"))) == tmp_path / "home" / "mlflow.db"
    assert sqlite_file("sqlite:////var/my%20data/m.db?timeout=30") == Path("/var/my data/m.db")
    assert sqlite_file("http://localhost:5000") is None


@pytest.mark.parametrize(
    ("uri", "text", "expected"),
    [
        ("http://me:s3cret@host:5000", "http://me:s3cret@host:5000/api failed", "http://me:***@host:5000/api failed"),
        ("http://me:s%20x@host", "s%20x and s x", "*** and ***"),
        ("http://host:5000", "http://host:5000 failed", "http://host:5000 failed"),
    ],
)
def test_masked_hides_the_password(uri: str, text: str, expected: str) -> None:
    assert masked(text, uri) == expected


def test_check_tracking_accepts_a_database_that_does_not_exist_yet(tmp_path: Path) -> None:
    check_tracking(embedded_uri(tmp_path / "new"))


@pytest.mark.parametrize("before", ["", "import mlflow; "])
def test_check_tracking_makes_mlflow_quiet_whoever_imports_it(tmp_path: Path, before: str) -> None:
    code = before + (
        "import logging, sys; from study.tracking.server import check_tracking; check_tracking(sys.argv[1]); "
        "import mlflow; assert not logging.getLogger('mlflow.store').isEnabledFor(logging.INFO); "
        "from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY as off; assert off.get()"
    )
    given = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    subprocess.run([sys.executable, "-c", code, embedded_uri(tmp_path)], check=True, timeout=PATIENCE_S, env=given)


def test_check_tracking_refuses_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("these are not the tables you are looking for")
    with pytest.raises(UserError, match="must be an SQLite file, but"):
        check_tracking(embedded_uri(tmp_path))


def test_check_tracking_refuses_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(UserError, match="must be writable, but"):
        check_tracking(embedded_uri(tmp_path / "home"))


def test_check_tracking_refuses_an_address_without_scheme() -> None:
    with pytest.raises(UserError, match="a tracking address must be a URL that begins with"):
        check_tracking("mlruns")


def test_check_tracking_names_a_server_that_is_not_there_without_its_password(free_port: int) -> None:
    port = free_port
    with pytest.raises(LonglagError) as caught:
        check_tracking(f"http://me:s3cret@127.0.0.1:{port}")
    assert str(caught.value) == (
        f"the tracking server must answer within 5 s, but http://me:***@127.0.0.1:{port} does not: Connection refused"
    )


def test_check_tracking_gives_a_silent_server_up(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CHECK_S", 0.3)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with pytest.raises(LonglagError, match=f"127.0.0.1:{silent_port} does not: no answer"):
        check_tracking(f"http://127.0.0.1:{silent_port}")


def test_download_weights_fails_in_one_sentence_when_nobody_answers(tmp_path: Path, free_port: int) -> None:
    with pytest.raises(LonglagError, match=r"^the weights of run any cannot be read from MLflow: Connection refused$"):
        download_weights(f"http://me:s3cret@127.0.0.1:{free_port}", "any", tmp_path)


def _pause() -> None:
    """Leave the processor to the server that is starting."""
    threading.Event().wait(0.05)


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for(sink: MlflowSink, n_pending: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while sink.pending() != n_pending:
        assert time.monotonic() < deadline, sink.last_error()
        _pause()


def _report(sink: MlflowSink, keys: list[TrialKey], updates: range) -> None:
    for update in updates:
        for key in keys:
            values = {"loss": 1 / (1 + update), "gradient/half_life": math.inf}
            sink.log_metrics(
                key, [Metric(name=name, value=v, update=update, time_ms=1000 + update) for name, v in values.items()]
            )


def test_sink_delivers_everything_once_when_the_server_dies_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int, mlflow_server: StartServer
) -> None:
    monkeypatch.setattr(shipper, "LONGEST_WAIT_S", 1.0)
    monkeypatch.setattr(shipper, "EVERY_S", 0.05)
    monkeypatch.setattr(shipper, "HOLD_S", 0.0)
    monkeypatch.setattr(shipper, "ASKED_S", 0.0)
    port = free_port
    uri = f"http://127.0.0.1:{port}"
    keys = [TrialKey(study="demo", model="lstm", number=number) for number in range(4)]
    cards = [TrialCard(key=k, task="adding", cell="lstm", parameters={"p": 0.5}, configuration="a: 1\n") for k in keys]
    outcome = Outcome(status=Status.COMPLETE, dependency_length=8, skill=0.5, diverged=False, n_updates=60)
    weights = [tmp_path / f"{key.number}.safetensors" for key in keys]
    for file in weights:
        file.write_bytes(file.name.encode())

    # The study begins while the server is not up yet.
    sink = MlflowSink(tmp_path / "spool", ThreadShipping(uri), study="demo")
    sink.open_study(parameters={"task": "adding"}, specification="name: demo\n")
    for card in cards[:2]:
        sink.open_trial(card)
    process = mlflow_server(tmp_path, port)
    try:
        check_tracking(uri)
        _report(sink, keys[:2], range(20))
        _wait_for(sink, 0)
        while sink.last_error() is not None:
            _pause()
        _report(sink, keys[:2], range(20, 30))  # some of it under way as the server dies
    finally:
        _kill(process)

    began = time.monotonic()
    for card in cards[2:]:
        sink.open_trial(card)
    _report(sink, keys, range(30, 60))
    for key, file in zip(keys, weights, strict=True):
        sink.close_trials([(key, outcome, file)])
    sink.close_study(status="done", outcomes=dict.fromkeys(keys, outcome))
    # 127 calls without a server; a single call that waited for it would take the 20 s of its timeout.
    assert time.monotonic() - began < 10
    assert sink.pending() >= 127
    while sink.last_error() != "tracking: Connection refused":
        _pause()
    assert all(file.exists() for file in weights)

    process = mlflow_server(tmp_path, port)
    try:
        assert sink.close(PATIENCE_S) == 0
        assert sink.last_error() is None
        assert not any(file.exists() for file in weights)
        client = server.connect(uri)
        runs = server.runs_of(client, client.get_experiment_by_name("demo").experiment_id)
        assert sorted(run.info.run_name for run in runs) == ["demo", "lstm/0", "lstm/1", "lstm/2", "lstm/3"]
        assert {run.info.status for run in runs} == {"FINISHED"}
        run_ids = {server.trial_key(run): run.info.run_id for run in runs}
        assert set(run_ids) == {None, *keys}
        for key, first in zip(keys, (0, 0, 30, 30), strict=True):
            history = client.get_metric_history(run_ids[key], "loss")
            assert [row.step for row in history] == list(range(first, 60))
            # Over HTTP, too, infinity arrives as the largest double.
            last = client.get_run(run_ids[key]).data.metrics
            assert last["gradient/half_life"] == sys.float_info.max
            assert last["dependency_length"] == 8
            file = download_weights(uri, run_ids[key], tmp_path / f"got-{key.number}")
            assert file.read_text() == f"{key.number}.safetensors"
    finally:
        _kill(process)
