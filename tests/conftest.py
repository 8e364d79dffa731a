"""What every test shares: a home and an environment of its own, and PostgreSQL for those that ask for it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_FIXED = {
    # Ray would else write a token into the home directory, and keep its mode in the environment for later tests.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_ABSENT = (
    "LONGLAG_HOME",
    "LONGLAG_STORAGE",
    "MLFLOW_TRACKING_URI",
    "PGPASSWORD",
    "RAY_ADDRESS",
    "RAY_AUTH_TOKEN_PATH",
)
_DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")
"""Debian keeps the server's programs out of PATH, one folder per version."""

SERVER_S = 120.0
"""How long a server may take to start on a busy machine."""

_environment = pytest.MonkeyPatch()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before test modules are imported: MLflow reads it when it is imported."""
    home = Path(tempfile.mkdtemp(prefix="longlag-home-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    config.add_cleanup(_environment.undo)
    # Compiled kernels may stay from one session to the next: their folder is named by their source.
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    # Killed processes leave their temporary files; those of Ray need a short path.
    temporary = Path(tempfile.mkdtemp(prefix="ll-", dir="/tmp"))
    temporary.chmod(0o755)
    config.add_cleanup(lambda: shutil.rmtree(temporary, ignore_errors=True))
    fixed = {"HOME": str(home), "XDG_CACHE_HOME": cache, "TMPDIR": str(temporary), **_FIXED}
    for name, value in fixed.items():
        _environment.setenv(name, value)
    _environment.setattr(tempfile, "tempdir", None)
    for name in _ABSENT:
        _environment.delenv(name, raising=False)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty database in a PostgreSQL of this session, reachable only through a socket in its folder."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's programs initdb and pg_ctl are not installed")
    # Not pytest's own temporary folder: only its owner may enter that, and a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="longlag-postgres-", dir="/tmp") as folder:
        user = _unprivileged_user()
        if user is not None:
            shutil.chown(folder, user)

        def run(*command: str) -> None:
            # Its output goes to a file: the server inherits it, and a pipe would stay open as long as the server runs.
            with (Path(folder) / "commands.log").open("a") as log:
                subprocess.run(command, user=user, cwd=folder, check=True, stdout=log, stderr=log)

        data = f"{folder}/data"
        run(
            initdb, "--pgdata", data, "--username=longlag", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"
        )
        # Every storage that a test opens keeps a connection until it is collected: Optuna's have no close.
        limits = "-c max_connections=1000 -c fsync=off"
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' {limits}"
        run(pg_ctl, "start", "--wait", "--pgdata", data, "--log", f"{folder}/server.log", "--options", options)
        try:
            yield f"postgresql+psycopg://longlag@/postgres?host={folder}"
        finally:
            run(pg_ctl, "stop", "--wait", "--pgdata", data, "--mode=immediate")


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mlflow_server() -> Iterator[Callable[[Path, int], subprocess.Popen[bytes]]]:
    """Starts tracking servers, each in a process group of its own, on a database and artifacts in a given folder."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (folder / "server.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        started.append(process)
        deadline = time.monotonic() + SERVER_S
        while time.monotonic() < deadline:
            assert process.poll() is None, (folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    return process
            except OSError:
                # It is starting, and sends no event.
                threading.Event().wait(0.05)
        raise TimeoutError((folder / "server.log").read_text())

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _program(name: str) -> str | None:
    newest_first = sorted(_DEBIAN_PROGRAMS.glob("*/bin"), reverse=True)
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, newest_first)))


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; None if we are not."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)
