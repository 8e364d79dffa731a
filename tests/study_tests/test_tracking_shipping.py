"""The process that ships: the driver has none of its work, either may be killed, and nothing is lost by that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from study.tracking import shipping
from study.tracking.journal import n_pending
from study.tracking.sink import MlflowSink, Shipping, embedded_uri
from study_tests.mlflow_book import FIRST, FLUSH_S, SECOND, card, run_of_trial, tell_all, wait_until


@pytest.fixture
def made(home: Path) -> Iterator[Shipping]:
    with Shipping(embedded_uri(home)) as one:
        yield one


def children(parent: int) -> list[int]:
    """The process IDs of a process's children that ship."""
    lists = (file.read_text() for file in Path(f"/proc/{parent}/task").glob("*/children"))
    found = [int(word) for words in lists for word in words.split()]
    return [child for child in found if b"study.tracking" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")]


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_process_ships_all_and_tells_the_runs(home: Path, client: MlflowClient, made: Shipping) -> None:
    sink = MlflowSink(home / "spool", made, study="demo")
    tell_all(sink, None)
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None
    assert run_of_trial(client, FIRST).info.status == "FINISHED"
    assert sink.run_ids() == {key: run_of_trial(client, key).info.run_id for key in (FIRST, SECOND)}
    assert children(os.getpid()) == []


def test_a_killed_process_is_followed_by_another(
    home: Path, client: MlflowClient, made: Shipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "LONGEST_WAIT_S", 0.5)
    sink = MlflowSink(home / "spool", made, study="demo")
    (first,) = children(os.getpid())
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: children(os.getpid()) not in ([], [first]))
    assert sink.last_error() == "tracking: its process has ended with status -9, another follows"
    tell_all(sink, None)
    for one in children(os.getpid()):
        os.kill(one, signal.SIGKILL)
    # Also while the study waits for it.
    assert sink.close(FLUSH_S) == 0
    assert sink.last_error() is None
    assert run_of_trial(client, FIRST).info.status == "FINISHED"


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
    wait_until(lambda: not alive(child))
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


def test_a_process_that_was_given_nothing_ends_with_the_body() -> None:
    with Shipping("http://127.0.0.1:1"):
        assert len(children(os.getpid())) == 1
    assert children(os.getpid()) == []


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
