"""The SQLite file of MLflow's tables, which MLflow itself makes step by step."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from study.settings import sqlite_file, sqlite_uri

ARTIFACTS = "artifacts"
"""Name of the folder beside the file in which each study has one for its artifacts."""


@lru_cache(maxsize=1)
def empty_database() -> bytes:
    """A file of tables with nothing in them.

    MLflow goes through all its versions to make it, most of a second: the user's cache folder keeps it for the next
    process, where it can.
    """
    from mlflow import MlflowClient, __version__

    # No home, no permission, no room: it is made again.
    with suppress(OSError, RuntimeError):
        kept = (cache_folder() / f"mlflow-{__version__}.db").read_bytes()
        if _whole(kept):
            return kept
    with tempfile.TemporaryDirectory(prefix="longlag-mlflow-") as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(sqlite_uri(file))
        made = file.read_bytes()
    with suppress(OSError, RuntimeError):
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="mlflow-") as folder:
            _write(Path(folder) / "mlflow.db", made)
            (Path(folder) / "mlflow.db").rename(cache_folder() / f"mlflow-{__version__}.db")
    return made


def cache_folder() -> Path:
    """The user's cache folder for longlag; raises RuntimeError where there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longlag"


def _whole(content: bytes) -> bool:
    """Whether it is a database that MLflow has made, all of it: what is kept for all studies to come must be."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.deserialize(content)
            database.execute("SELECT version_num FROM alembic_version").fetchone()
            n_pages, n_bytes, check = (
                database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size", "quick_check")
            )
            return bool(check == "ok" and n_pages * n_bytes == len(content))
        except (sqlite3.Error, MemoryError):
            # The latter is what Python makes of no bytes at all.
            return False


def put_database(file: Path) -> None:
    """Put an empty database there in one move, unless another process has just done so.

    MLflow makes its tables one by one, and cannot go on with those that a process left which was killed meanwhile.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".mlflow-") as folder:
        made = Path(folder) / file.name
        _write(made, empty_database())
        with closing(sqlite3.connect(made)) as database, database:
            # MLflow's own experiment names the place and the time at which the tables were made.
            place, now_ms = (file.parent / ARTIFACTS / "Default").absolute().as_uri(), int(1000 * time.time())
            columns = "artifact_location = ?, creation_time = ?, last_update_time = ?"
            database.execute(f"UPDATE experiments SET {columns}", (place, now_ms, now_ms))
        try:
            file.hardlink_to(made)
        except FileExistsError:
            pass
        except OSError:
            # exFAT and many a network's file system have no hard links.
            if not file.exists():
                made.rename(file)


def _write(file: Path, content: bytes) -> None:
    """Have a new file on the disk, whatever comes after."""
    with file.open("wb") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())


def local_folder(uri: str, address: str) -> Path | None:
    """The folder that an artifact address of MLflow names; None if it is on no disk of ours.

    What lies beside an SQLite database is looked for there: the address names the place that the data directory had, or
    was seen at, when the run began.

    Args:
        uri: where MLflow's data is.
        address: of a run's artifacts.
    """
    if not address.startswith("file:"):
        return None
    named, file = Path(unquote(urlsplit(address).path)), sqlite_file(uri)
    # artifacts/STUDY/RUN/artifacts, the last of which is MLflow's.
    ours = named.parts[-4:]
    return file.parent.joinpath(*ours) if file is not None and ours[:1] == (ARTIFACTS,) else named


def follow_move(file: Path) -> None:
    """Have the database name the artifacts beside it, which is where MLflow's own interface looks for them."""
    with closing(sqlite3.connect(file, timeout=60)) as database, database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        for (location,) in database.execute("SELECT artifact_location FROM experiments").fetchall():
            named = Path(unquote(urlsplit(location).path))
            beside = file.parent / ARTIFACTS / named.name
            ours = location.startswith("file:") and named.parent.name == ARTIFACTS and beside.is_dir()
            if not ours or location == beside.as_uri():
                continue
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (beside.as_uri(), len(location) + 1, len(location), location),
                )
