"""The process that ships: the driver has none of its work, either may be killed, and nothing is lost by that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from study.outcome import TrialKey
from study.tracking import shipping
from study.tracking.journal import n_pending
from study.tracking.sink import MlflowSink, Shipping, embedded_uri
from study_tests.mlflow_book import (
    FIRST,
    FLUSH_S,
    OUTCOME,
    SECOND,
    card,
    reported,
    run_of_trial,
    runs_of_study,
    tell_all,
    wait_until,
)
from study_tests.service_book import descendants, title


@pytest.fixture
def made(home: Path) -> Iterator[Shipping]:
    with Shipping(embedded_uri(home)) as one:
        yield one


def children(parent: int) -> list[int]:
    """The process IDs of a process's children that ship."""
    return [child for child in descendants(parent) if "study.tracking" in title(child).split("\0")]


def test_process_ships_all_and_tells_the_runs(home: Path, client: MlflowClient, made: Shipping) -> None:
    sink = MlflowSink(home / "spool", made, study="demo")
    tell_all(sink, None)
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None
    assert run_of_trial(client, FIRST).info.status == "FINISHED"
    assert sink.run_ids() == {key: run_of_trial(client, key).info.run_id for key in (FIRST, SECOND)}
    assert children(os.getpid()) == []


def test_killed_processes_are_followed_by_others_and_nothing_is_lost_or_written_twice(
    home: Path, client: MlflowClient, made: Shipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "FIRST_WAIT_S", 0.05)
    sink = MlflowSink(home / "spool", made, study="demo")
    keys = [TrialKey(study="demo", model="lstm", number=number) for number in range(60)]
    killed: list[int] = []
    for key in keys:
        sink.open_trial(card(key))
        sink.log_metrics(key, reported(10, 0.5))
        sink.close_trials([(key, OUTCOME, None)])
        if key.number in {10, 30, 50}:
            # In the middle of shipping what is there by now.
            n_runs = len(runs_of_study(client))
            wait_until(lambda n_runs=n_runs: len(runs_of_study(client)) > n_runs + 2)
            (child,) = children(os.getpid())
            os.kill(child, signal.SIGKILL)
            killed.append(child)
            told: set[str | None] = set()
            # Until another takes its place, which may have news at once.
            wait_until(lambda told=told: told.add(sink.last_error()) or children(os.getpid()) not in ([], killed[-1:]))
            assert "tracking: its process has ended with status -9" in told
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None
    assert len(set(killed)) == 3
    assert set(sink.run_ids()) == set(keys)
    for key in keys:
        run = run_of_trial(client, key)
        assert run.info.status == "FINISHED"
        assert [row.step for row in client.get_metric_history(run.info.run_id, "loss")] == [10]
    assert len(runs_of_study(client)) == len(keys) + 1


def test_a_process_killed_while_the_study_waits_for_it_is_followed_by_another(
    home: Path, client: MlflowClient, made: Shipping
) -> None:
    sink = MlflowSink(home / "spool", made, study="demo")
    tell_all(sink, None)
    (child,) = children(os.getpid())
    os.kill(child, signal.SIGSTOP)
    # It cannot end before the study waits.
    killer = threading.Timer(0.2, os.kill, (child, signal.SIGKILL))
    killer.start()
    assert sink.close(FLUSH_S) == 0
    killer.join()
    assert run_of_trial(client, FIRST).info.status == "FINISHED"


def test_the_last_words_of_a_process_that_cannot_start_are_told(
    tmp_path: Path, made: Shipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of order >&2\necho >&2\nexit 3\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    os.kill(children(os.getpid())[0], signal.SIGKILL)
    wait_until(lambda: made.last_error == "tracking: its process has ended with status 3 (out of order)")


_DRIVER = """
import sys
from pathlib import Path
from study.tracking.sink import MlflowSink, Shipping, embedded_uri
from study_tests.mlflow_book import FIRST, reported
home = Path(sys.argv[1])
sink = MlflowSink(home / "spool", Shipping(embedded_uri(home)), study="demo")
sink.log_metrics(FIRST, reported(10, 0.5))
print("told", flush=True)
sys.stdin.read()
"""


def test_process_ends_with_a_driver_that_is_killed(home: Path, client: MlflowClient) -> None:
    finds = {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _DRIVER, str(home)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | finds
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "told\n"
        (child,) = children(driver.pid)
        # A terminal's Ctrl-C reaches the session of the driver.
        assert os.getsid(child) == child
        driver.kill()
    wait_until(lambda: not title(child))
    assert n_pending(home / "spool") == 1
    with Shipping(embedded_uri(home)) as again:
        assert MlflowSink(home / "spool", again, study="demo").close(FLUSH_S) == 0
    assert run_of_trial(client, FIRST).data.metrics == {"loss": 0.5}


def test_a_process_that_is_stuck_is_given_up_in_time(home: Path) -> None:
    with Shipping(embedded_uri(home)) as made:
        sink = MlflowSink(home / "spool", made, study="demo")
        sink.open_trial(card(FIRST))
        (child,) = children(os.getpid())
        os.kill(child, signal.SIGSTOP)
        began = time.monotonic()
        assert sink.close(0.2) == 1
        assert time.monotonic() - began < 10
        assert children(os.getpid()) == []


def test_a_process_that_was_given_nothing_ends_soon_after_the_body() -> None:
    with Shipping("http://127.0.0.1:1"):
        assert len(children(os.getpid())) == 1
    wait_until(lambda: children(os.getpid()) == [])


_DRIVER_ONLY = """
import sys
from pathlib import Path
from study.tracking.sink import MlflowSink, Shipping, embedded_uri
home = Path(sys.argv[1])
with Shipping(embedded_uri(home)) as shipping:
    sink = MlflowSink(home / "spool", shipping, study="demo")
    sink.open_study(parameters={}, specification="name: demo")
    assert sink.close(60) == 0, sink.last_error()
sys.exit(bool({"mlflow", "matplotlib", "sqlalchemy"} & set(sys.modules)))
"""


def test_a_driver_imports_nothing_that_tracking_needs(home: Path) -> None:
    subprocess.run([sys.executable, "-c", _DRIVER_ONLY, str(home)], check=True, timeout=120)
