"""Reaching MLflow: addresses, a client that is quiet and gives up in time, and questions asked outside a run."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from study.errors import LonglagError, UserError
from study.outcome import TrialKey
from study.settings import sqlite_file, sqlite_uri
from study.tracking.database import empty_database, local_folder, put_database

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRIAL, STUDY, MODEL = "longlag.trial", "longlag.study", "longlag.model"
"""Tags that join a run to its trial."""

WEIGHTS = "weights.safetensors"
"""Name of the artifact that holds a trial's weights."""

SCHEMES = ("http", "https", "postgresql", "mysql", "mssql", "sqlite", "databricks")
"""What a tracking address may begin with."""

CHECK_S = 5.0
"""Seconds within which a tracking server must answer before a study starts."""

_PAGE = 1000

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Patience is the shipper's business; the client would wait 2 minutes for an answer, 8 times.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # The terminal belongs to the study's live table, which shows the last error.
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def embedded_uri(home: Path) -> str:
    """Address of the MLflow database in a data directory; its artifacts lie in ``artifacts`` beside it."""
    return sqlite_uri(home / "mlflow.db")


def masked(text: str, uri: str) -> str:
    """The text without the password that the address may hold."""
    try:
        password = urlsplit(uri).password
    except ValueError:
        # Nobody can tell which part of it is the password.
        return text.replace(uri, "***")
    for secret in {password, unquote(password)} if password else ():
        text = text.replace(secret, "***")
    return text


def one_line(error: BaseException, uri: str) -> str:
    """What went wrong, in at most 200 characters without the address's password.

    Under the layers that a failed connection passes through, the operating system has said it best.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return masked(lines[0], uri)[:200]


def connect(uri: str) -> MlflowClient:
    """A client of this address; the first one imports MLflow, which takes two seconds.

    Raises:
        Exception: whatever the address makes MLflow and the database's driver raise.
    """
    _prepare_import()
    from mlflow import MlflowClient

    if (file := sqlite_file(uri)) is not None and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        put_database(file)
    return MlflowClient(uri)


def preload(uri: str) -> None:
    """Import MLflow and what draws figures, and make the database that ``connect`` will put where it is missing.

    That takes two seconds of one core. Nothing is left in the data directory, and no server is asked anything.

    Args:
        uri: address that ``connect`` will be given.
    """
    _prepare_import()
    for module in ("mlflow", "study.tracking.trial_figure"):
        import_module(module)
    if (file := sqlite_file(uri)) is not None:
        import_module("mlflow.store.tracking.sqlalchemy_store")
        if not file.exists():
            empty_database()


def _prepare_import() -> None:
    _prepare_environment()
    # A retry is no news for the terminal either.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    # MLflow 3.17 declares its tables with an option that SQLAlchemy 2.1 deprecates; nothing we could do differently.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)


def _prepare_environment() -> None:
    """What MLflow reads when it is imported, and later."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # MLflow reads it when it is imported, which somebody may have done already.
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())


def check_tracking(uri: str) -> None:
    """Make sure that a study can be recorded at this address.

    A server or database server is asked a question, which it has ``CHECK_S`` seconds to answer. An SQLite file need
    only be one, or be missing from a folder that can be made: it is created when the first trial is recorded.

    Raises:
        UserError: the address makes no sense, or the file is none that can be written.
        LonglagError: no server answers there.
    """
    _prepare_environment()
    if (file := sqlite_file(uri)) is not None:
        _check_file(file)
        return
    if uri.partition("://")[0].partition("+")[0] not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise UserError(f"a tracking address must be a URL that begins with {known}, but got {masked(uri, uri)!r}")
    try:
        urlsplit(uri)
    except ValueError as error:
        raise UserError(f"a tracking address must be a URL, but the one given is none: {error}") from None
    import mlflow  # noqa: F401  (so that its two seconds are not counted)

    failures: list[str] = ["no answer"]

    def ask() -> None:
        try:
            connect(uri).search_experiments(max_results=1)
            failures.clear()
        except Exception as error:  # noqa: BLE001  (the thread's edge: the error is told by the one who waits)
            failures[:] = [one_line(error, uri)]

    thread = threading.Thread(target=ask, name="longlag-check", daemon=True)
    thread.start()
    thread.join(CHECK_S)
    if failures:
        raise LonglagError(
            f"the tracking server must answer within {CHECK_S:.0f} s, but {masked(uri, uri)} does not: {failures[0]}"
        )


def _check_file(file: Path) -> None:
    if not file.exists():
        place = next(folder for folder in file.parents if folder.exists())
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise UserError(f"the tracking database must be writable, but {file} cannot be made in {place}")
        return
    try:
        with file.open("ab"), file.open("rb") as content:
            magic = content.read(16)
    except OSError as error:
        raise UserError(f"the tracking database must be writable, but {file} is not: {error.strerror}") from None
    if magic not in {b"", b"SQLite format 3\0"}:
        raise UserError(f"the tracking database must be an SQLite file, but {file} is not")


def runs_of(client: MlflowClient, experiment_id: str) -> list[Run]:
    """All runs of an experiment that were not deleted, the oldest first."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], max_results=_PAGE, order_by=["attributes.start_time ASC"], page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found


def trial_key(run: Run) -> TrialKey | None:
    """The trial that a run belongs to; None for a run that is no trial's."""
    tags = run.data.tags
    number = tags.get(TRIAL, "").rpartition("/")[2]
    if STUDY not in tags or MODEL not in tags or not number.isdecimal():
        return None
    return TrialKey(study=tags[STUDY], model=tags[MODEL], number=int(number))


def find_run(uri: str, key: TrialKey) -> str | None:
    """The run of a trial; None if MLflow has none.

    Raises:
        LonglagError: MLflow does not answer.
    """
    try:
        client = connect(uri)
        experiment = client.get_experiment_by_name(key.study)
        if experiment is None:
            return None
        found = client.search_runs([experiment.experiment_id], f"tags.`{TRIAL}` = '{key}'", max_results=1)
    except Exception as error:  # noqa: BLE001  (drivers, HTTP and MLflow each have exceptions of their own)
        raise LonglagError(f"the run of {key} cannot be read from MLflow: {one_line(error, uri)}") from None
    return found[0].info.run_id if found else None


def download_weights(uri: str, run_id: str, target: Path) -> Path:
    """Fetch the weights of a trial into a folder, which is made if it is missing.

    Returns:
        The file, ``weights.safetensors`` in the folder.

    Raises:
        UserError: the run has no weights.
        LonglagError: MLflow does not answer, or does not know the run.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        client = connect(uri)
        folder = local_folder(uri, client.get_run(run_id).info.artifact_uri)
        found = client.list_artifacts(run_id) if folder is None else ()
        if not (any(one.path == WEIGHTS for one in found) if folder is None else (folder / WEIGHTS).is_file()):
            raise UserError(f"a trial must have left weights to be exported, but run {run_id} has none")
        if folder is not None:
            return Path(shutil.copy(folder / WEIGHTS, target))
        return Path(client.download_artifacts(run_id, WEIGHTS, str(target)))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  (drivers, HTTP and MLflow each have exceptions of their own)
        raise LonglagError(f"the weights of run {run_id} cannot be read from MLflow: {one_line(error, uri)}") from None
