"""The SQLite file of MLflow's tables, which MLflow itself makes step by step."""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def empty_database() -> bytes:
    """A file of tables with nothing in them; MLflow goes through all its versions to make it, most of a second."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix="longlag-mlflow-") as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{file}")
        return file.read_bytes()


def put_database(file: Path) -> None:
    """Put an empty database there in one move, unless another process has just done so.

    MLflow makes its tables one by one, and cannot go on with those that a process left which was killed meanwhile.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".mlflow-") as folder:
        made = Path(folder) / file.name
        with made.open("wb") as output:
            output.write(empty_database())
            output.flush()
            os.fsync(output.fileno())
        try:
            file.hardlink_to(made)
        except FileExistsError:
            pass
        except OSError:
            # exFAT and many a network's file system have no hard links.
            if not file.exists():
                made.rename(file)
