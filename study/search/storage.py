"""Opening the Optuna storage, and riding out its short absences."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import event
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, OperationalError, SQLAlchemyError

from study.errors import LonglagError, UserError

PATIENCE_S = 120.0
"""How long a running study waits for a storage that has gone away, a restart of PostgreSQL included."""

CREATION_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
"""Pauses while another process creates the tables of a new database at this very moment."""

PAGE, SPAN = 100, 10_000
"""Trials read at a time, some 20 KiB each until they are trials; and ids between theirs that a query may name."""

_NO_FILE = ("unable to open database file", "file is not a database")
"""What SQLite says of a file that is none of its own."""

_NO_ID = 2**31 - 1
"""An id beyond all ids."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


def open_storage(url: str) -> RDBStorage:
    """The storage at a SQLAlchemy URL, created if it is an SQLite file that does not exist.

    Optuna would put a cache around it, which keeps every trial in memory that this process asks.

    Raises:
        UserError: the URL makes no sense, or names a file that cannot be opened.
        LonglagError: no server answers there, or the file is not to be had at present.
    """
    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() == "sqlite":
            options = {"connect_args": {"timeout": 60}}
        else:
            options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}}  # type: ignore[dict-item]
        for pause_s in CREATION_PAUSES_S:
            try:
                return RDBStorage(url, engine_kwargs=options)
            except SQLAlchemyError as error:
                if not _is_being_created(error):
                    raise
            time.sleep(pause_s)
        return RDBStorage(url, engine_kwargs=options)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError):
        raise UserError(
            "the storage must be a URL like sqlite:///study.db or postgresql+psycopg://user@host/name, "
            f"but got {url.rpartition('@')[2]!r}"
        ) from None
    except (OSError, SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        # A file was asked for that is none; a server, or a disk that is full, may come back.
        asked_wrongly = parsed.get_backend_name() == "sqlite" and _reason(error) in _NO_FILE
        kind = UserError if asked_wrongly else LonglagError
        raise kind(f"the storage {shown} does not answer: {_reason(error)}") from None


def persist(call: Callable[[], T], *, patience_s: float = PATIENCE_S, pause_s: float = 1.0) -> T:
    """The result of a call to the storage, tried again while the storage does not answer.

    Raises:
        LonglagError: it still does not after ``patience_s`` seconds.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except (OperationalError, StorageInternalError) as error:
            if time.monotonic() >= deadline:
                raise LonglagError(f"the storage has not answered for {patience_s:.0f} s: {_reason(error)}") from error
            _log.warning("the storage does not answer, trying again: %s", _reason(error))
            time.sleep(pause_s)


@contextmanager
def one_transaction(storage: RDBStorage) -> Iterator[None]:
    """What this thread writes in the body is there as a whole when it ends, or not at all.

    Optuna commits every call; a disk or a server then confirms each, which may take ten milliseconds. Here the session
    that Optuna finds for this thread only ends savepoints of a transaction around it.

    Raises:
        StorageInternalError: the database has refused something, or ended the transaction by itself.

    Source: SQLAlchemy's documentation, "Joining a Session into an External Transaction". Differs: the session is the
    one of Optuna's registry, an attribute that Optuna does not promise to keep.
    """
    sessions = storage.scoped_session
    try:
        with storage.engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                # Python's driver begins at the first change; a savepoint before that is a transaction of its own.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                event.listen(connection, "savepoint", _refuse_alone)
            try:
                sessions.remove()
                sessions(bind=connection, join_transaction_mode="create_savepoint")
                yield
            finally:
                try:
                    sessions.remove()
                finally:
                    sessions.registry.clear()
    except (SQLAlchemyError, _TransactionLostError) as error:
        first = _first(error)
        raise StorageInternalError(_reason(first)) from first


class _TransactionLostError(Exception):
    """Optuna tries again what fails with an error of the database, but not what fails with this."""


def _refuse_alone(connection: Connection, _: str) -> None:
    """SQLite gives a transaction up when the disk is full; what came next would enter without what came before."""
    if not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
        raise _TransactionLostError("the database has given a transaction up, as on a full disk")


def every_trial(storage: RDBStorage, study_id: int) -> Iterator[FrozenTrial]:
    """All trials of a study by number, of which a page is in memory at a time; Optuna itself reads all at once."""
    for start in count(step=PAGE):
        page = persist(partial(_page, storage, study_id, start))
        yield from page
        if len(page) < PAGE:
            return


def _page(storage: RDBStorage, study_id: int, start: int) -> list[FrozenTrial]:
    """At most a page of the trials from this number on; ids between theirs may be those of other studies' trials.

    Optuna reads parts of a study for its own cache only, and so this is a private method of its 5.0.
    """
    id_of = partial(storage.get_trial_id_from_study_id_trial_number, study_id)
    try:
        first = id_of(start)
    except KeyError:
        return []
    try:
        last = id_of(start + PAGE - 1)
    except KeyError:
        # More may have been asked meanwhile.
        return storage._get_trials(study_id, None, set(), first - 1)[:PAGE]
    near = last - first < SPAN
    ids = set(range(first, last + 1)) if near else {id_of(number) for number in range(start, start + PAGE)}
    return storage._get_trials(study_id, None, ids, _NO_ID)


def _is_being_created(error: SQLAlchemyError) -> bool:
    """Whether two processes have got into each other's way over the tables or their version."""
    return isinstance(error, IntegrityError) or any(word in str(error) for word in ("already exists", "is locked"))


def _first(error: BaseException) -> BaseException:
    """What went wrong with the database before this error did, which came of cleaning up after it."""
    first = error
    while error.__context__ is not None:
        error = error.__context__
        if isinstance(error, SQLAlchemyError):
            first = error
    return first


def _reason(error: BaseException) -> str:
    """The innermost cause in one line; SQLAlchemy and Optuna wrap the driver's own words in paragraphs."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OperationalError) and error.orig is not None:
        error = error.orig
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
