"""MLflow's database: it is made as a whole or not at all, wherever it lies, and ahead of time if that is asked for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from importlib.metadata import version
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
    uri, environment = embedded_uri(tmp_path / "home"), {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert subprocess.run([sys.executable, "-c", DIES, uri], env=environment, check=False).returncode == 9
    assert not list(tmp_path.glob("cache/longlag/mlflow-*"))
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
# What MLflow imports when it chooses a store is small.
later = {name for name in set(sys.modules) - before if not name.startswith("mlflow.store.")}
assert not {name for name in later if name.partition(".")[0] in {"mlflow", "matplotlib"}}
assert [one.name for one in client.search_experiments()] == ["Default"]
"""


def test_preload_leaves_nothing_where_the_study_is_and_nothing_large_to_import(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRELOADED, str(tmp_path), embedded_uri(tmp_path / "home")]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["mlflow.db"]


KEPT = """
import sys
from sqlalchemy import Engine, event
from study.tracking.database import empty_database

made = []
event.listen(Engine, "connect", lambda *connection: made.append(1))
sys.stdout.buffer.write(empty_database())
sys.stderr.write("made" if made else "kept")
"""


def emptied(cache: Path) -> tuple[bytes, str]:
    """An empty database as a new process has it, and whether it was made or kept."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", KEPT], env=environment, capture_output=True, check=True)
    return done.stdout, done.stderr.decode()[-4:]


def test_an_empty_database_is_made_once_and_kept_for_other_processes(tmp_path: Path) -> None:
    (first, how), (second, again) = emptied(tmp_path), emptied(tmp_path)
    assert first == second
    assert (how, again) == ("made", "kept")
    assert [path.name for path in (tmp_path / "longlag").iterdir()] == [f"mlflow-{version('mlflow')}.db"]


def test_an_empty_database_is_made_again_where_none_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "longlag").write_text("no folder", encoding="utf-8")
    for _ in range(2):
        database, how = emptied(tmp_path)
        assert how == "made"
        assert database.startswith(b"SQLite format 3")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_an_empty_database_that_is_not_whole_is_made_again_and_kept(tmp_path: Path, share: float) -> None:
    (made, _), (kept,) = emptied(tmp_path), (tmp_path / "longlag").iterdir()
    kept.write_bytes(made[: int(share * len(made))])
    assert [emptied(tmp_path)[1] for _ in range(2)] == ["made", "kept"]


def test_a_database_names_no_place_but_its_own(tmp_path: Path) -> None:
    before_ms = 1000 * time.time()
    home = tmp_path / "a home"
    (default,) = server.connect(embedded_uri(home)).search_experiments()
    assert default.artifact_location == (home / "artifacts" / "Default").as_uri()
    assert default.creation_time >= before_ms - 1000
