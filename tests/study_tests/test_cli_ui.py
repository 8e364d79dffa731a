"""The command that shows MLflow's own interface: where it listens, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from study.tracking import ui
from study_tests.cli_book import Call, assert_refused
from study_tests.mlflow_book import wait_until


def test_ui_refuses_a_port_in_use(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / ".longlag").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(
            longlag("ui", "--port", str(port)),
            f"127.0.0.1:{port} is none: Address already in use (--port takes another)\n",
        )
    assert_refused(longlag("ui", "--host", "no.such.host.invalid"), "no.such.host.invalid:5000 is none")


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGHUP])
def test_ui_that_is_terminated_takes_its_server_along(tmp_path: Path, free_port: int, way: signal.Signals) -> None:
    (tmp_path / "home").mkdir()
    words = ["--home", str(tmp_path / "home"), "ui", "--port", str(free_port)]
    # Whoever has started the tests may have them ignore a hang-up.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen([sys.executable, "-m", "study.cli", *words], start_new_session=True) as process:
        signal.signal(signal.SIGHUP, before)
        try:
            wait_until(lambda: answers(free_port))
            process.send_signal(way)
            assert process.wait(60) == 0
            assert not answers(free_port)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_ui_ends_as_the_server_does(
    longlag: Call, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".longlag").mkdir()
    monkeypatch.setattr(ui, "serve", lambda *passed, **named: 3)
    assert longlag("ui", "--port", str(free_port))[0] == 3


def test_serve_calls_it_a_failure_when_the_server_ends_by_itself(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As MLflow's does that finds its port taken after all.
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    assert ui.serve(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, host="127.0.0.1", port=free_port) == 1
