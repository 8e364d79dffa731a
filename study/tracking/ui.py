"""MLflow's own user interface on the embedded store."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from study.errors import UserError
from study.lease import ending_signals
from study.settings import sqlite_file
from study.tracking.database import ARTIFACTS, follow_move
from study.tracking.server import connect


def check_address(host: str, port: int) -> None:
    """Make sure that a server can listen there; raises UserError if it cannot."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        # Python repeats the address in parentheses.
        reason = str(error.strerror).partition(" (")[0]
        raise UserError(
            f"the UI must have an address to listen on, but {host}:{port} is none: {reason} (--port takes another)"
        ) from None


def serve(uri: str, home: Path, *, host: str, port: int) -> int:
    """Run MLflow's server until it is interrupted or terminated; for the main thread of a process.

    Args:
        uri: address of the embedded store.
        home: data directory; artifacts lie in it.
        host: address to listen on.
        port: TCP port to listen on.

    Returns:
        The server's exit code; 0 when it was interrupted or terminated.
    """
    # The server, killed while it makes a database, would leave one that is no use.
    connect(uri)
    if (file := sqlite_file(uri)) is not None:
        # On a disk that cannot be written there is less to be seen.
        with suppress(sqlite3.OperationalError):
            follow_move(file)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", host]
    command += ["--port", str(port), "--workers", "1", "--default-artifact-root", (home / ARTIFACTS).as_uri()]
    # The warnings are about how MLflow uses its own dependencies.
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
    }
    before = {number: signal.signal(number, signal.default_int_handler) for number in ending_signals()}
    try:
        # Of its own session: interrupted by a terminal as well as by us, it would print tracebacks.
        with subprocess.Popen(command, env={**os.environ, **quiet}, start_new_session=True) as server:
            try:
                # It ends by itself only if something went wrong, and may not say so.
                return server.wait() or 1
            except KeyboardInterrupt:
                server.terminate()
                server.wait()
                return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
