"""One transaction of a database around what Optuna and MLflow commit call by call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, sessionmaker


class TransactionLostError(Exception):
    """The database has ended a transaction by itself; no library tries again what fails with this."""


@contextmanager
def outer_transaction(engine: Engine) -> Iterator[sessionmaker[Session]]:
    """A maker of sessions that end savepoints only; all that they write is there when the body ends, or nothing.

    A disk or a server confirms every commit, which may take ten milliseconds.

    Raises:
        SQLAlchemyError: the database has refused something.
        TransactionLostError: it has given the transaction up.

    Source: SQLAlchemy's documentation, "Joining a Session into an External Transaction". Differs: nothing.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            # Python's driver begins at the first change; a savepoint before that is a transaction of its own.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            event.listen(connection, "savepoint", _refuse_alone)
        yield sessionmaker(bind=connection, join_transaction_mode="create_savepoint")


def _refuse_alone(connection: Connection, _: str) -> None:
    """SQLite gives a transaction up when the disk is full; what came next would enter without what came before."""
    if not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
        raise TransactionLostError("the database has given a transaction up, as on a full disk")
