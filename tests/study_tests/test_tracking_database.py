"""MLflow's database: it is made as a whole or not at all, wherever it lies, and ahead of time if that is asked for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.tracking import server
from study.tracking.server import embedded_uri

PATIENCE_S = 60.0

DIES = """
import os, sys
from sqlalchemy import Engine, event
from study.tracking.server import connect

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if "CREATE TABLE assessments" in statement:
        os._exit(9)

connect(sys.argv[1])
"""
"""A process that is killed between two of the steps in which MLflow makes its tables."""


def test_connect_makes_a_whole_database_after_a_process_was_killed_making_it(tmp_path: Path) -> None:
    uri = embedded_uri(tmp_path / "home")
    assert subprocess.run([sys.executable, "-c", DIES, uri], check=False).returncode == 9
    assert [one.name for one in server.connect(uri).search_experiments()] == ["Default"]


def test_connect_makes_a_database_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*passed: object, **named: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    assert [one.name for one in server.connect(embedded_uri(tmp_path)).search_experiments()] == ["Default"]
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


PRELOADED = """
import sys, tempfile
from pathlib import Path
from study.tracking.server import connect, preload

folder, uri = Path(sys.argv[1]), sys.argv[2]
tempfile.tempdir = str(folder)
preload(uri)
assert not list(folder.iterdir()), list(folder.iterdir())
before = set(sys.modules)
client = connect(uri)
assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in {"mlflow", "matplotlib"}}
assert [one.name for one in client.search_experiments()] == ["Default"]
"""


def test_preload_leaves_nothing_on_the_disk_and_nothing_to_import(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRELOADED, str(tmp_path), embedded_uri(tmp_path / "home")]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["mlflow.db"]
