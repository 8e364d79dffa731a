"""MLflow's database, told of dozens of trials at once.

MLflow's client writes to one run at a time, asks questions before each of its writes, and makes an object of each
value: of a trial that is told as a whole, thirty milliseconds of a core. The same rows by the dozen are three.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.tracking.run import RUNNING, Batch, RunPlace
from study.tracking.server import TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient, entities

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """A run that MLflow has, and what is new of it."""

    place: RunPlace
    batch: Batch


@dataclass(frozen=True, kw_only=True)
class NewRun(KnownRun):
    """A run that MLflow lacks, and all that it holds but its files."""

    name: str
    start_ms: int


class Rows:
    """Writes to MLflow's tables, and leaves there what MLflow's client would leave.

    The tables, and some more names that are used here, are inner ones of MLflow 3.17, which refuses a database of
    another version.
    """

    def __init__(self, store: Any, experiment_id: str) -> None:
        """Rows of an experiment; ``store`` is MLflow's own of a database."""
        self._store, self._experiment_id = store, experiment_id

    def places(self, names: Collection[str]) -> dict[str, RunPlace]:
        """Where runs of these trials will be: always the same place, so that another try writes over what one has left.

        A trial is left out whose run was deleted, or is its no more by its tags.

        Raises:
            MlflowException: one of them has a run by now, the experiment is deleted, or the database fails.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
        from mlflow.utils.uri import append_to_uri_path

        if not names:
            return {}
        experiment = self._store.get_experiment(self._experiment_id)
        if experiment.lifecycle_stage != "active":
            raise MlflowException(f"experiment {experiment.name!r} is deleted")
        # Other databases count their experiments from one as well, and their files may lie in the same place.
        seed = f"{self._experiment_id}/{experiment.creation_time}"
        run_ids = {uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}/{name}").hex: name for name in names}
        with self._store.ManagedSessionMaker() as session:
            found = session.query(SqlRun.run_uuid, SqlRun.lifecycle_stage).filter(SqlRun.run_uuid.in_([*run_ids]))
            taken: dict[str, str] = dict(found)
            tagged = session.query(SqlTag.run_uuid).filter(SqlTag.run_uuid.in_([*taken]), SqlTag.key == TRIAL)
            if late := [run_ids[run_id] for (run_id,) in tagged if taken[run_id] == "active"]:
                # An answer was lost, or somebody else writes too: whoever looks again finds it.
                raise MlflowException(f"{late[0]} has got a run meanwhile")
        root, inner = experiment.artifact_location, self._store.ARTIFACTS_FOLDER_NAME
        return {
            name: RunPlace(run_id=run_id, artifact_uri=append_to_uri_path(root, run_id, inner))
            for run_id, name in run_ids.items()
            if run_id not in taken
        }

    def write(self, runs: Iterable[KnownRun]) -> None:
        """Write what is new of runs, all of it or nothing.

        Raises:
            MlflowException: MLflow's client would refuse one of the batches, a known run is deleted or gone, or the
                database fails.
        """
        from mlflow.store.tracking.dbmodels.models import SqlRun
        from sqlalchemy import update

        every = list(runs)
        new = [run for run in every if isinstance(run, NewRun)]
        known = [run for run in every if not isinstance(run, NewRun)]
        of_new, of_known = self._tables(new), self._tables(known)
        with self._store.ManagedSessionMaker(read_only=False) as session:
            _insert(session, SqlRun, [self._run(run) for run in new])
            for table, rows in of_new.items():
                _insert(session, table, rows)
            if not known:
                return
            self._check([run.place.run_id for run in known], session)
            for table, rows in of_known.items():
                lacking, newer = _compare(session, table, rows) if rows else ([], [])
                _insert(session, table, lacking)
                if newer:
                    session.execute(update(table), newer)
            if moved := [_moved(run) for run in known if run.batch.standing is not None]:
                session.execute(update(SqlRun), moved)

    def _tables(self, runs: Iterable[KnownRun]) -> dict[Any, list[Row]]:
        """The rows of the batches, by table."""
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlTag
        from mlflow.utils.validation import _validate_batch_log_data

        tables: dict[Any, list[Row]] = {SqlTag: [], SqlParam: [], SqlMetric: [], SqlLatestMetric: []}
        for run in runs:
            metrics, parameters, tags = _validate_batch_log_data(*run.batch.entities())
            run_is: Row = {"run_uuid": run.place.run_id}
            values = [run_is | value for value in self._values(metrics)]
            tables[SqlTag] += (run_is | {"key": one.key, "value": one.value} for one in tags)
            if isinstance(run, NewRun):
                tables[SqlTag].append(run_is | {"key": "mlflow.runName", "value": run.name})
            tables[SqlParam] += (run_is | {"key": one.key, "value": one.value} for one in parameters)
            tables[SqlMetric] += values
            tables[SqlLatestMetric] += _latest(values)
        return tables

    def _run(self, run: NewRun) -> Row:
        standing = run.batch.standing or RUNNING
        return {
            "run_uuid": run.place.run_id,
            "name": run.name,
            "artifact_uri": run.place.artifact_uri,
            "experiment_id": int(self._experiment_id),
            "status": standing.status,
            "start_time": run.start_ms,
            "end_time": standing.end_ms,
            "lifecycle_stage": "active",
            "user_id": "unknown",
            "source_type": "UNKNOWN",
            **dict.fromkeys(("source_name", "entry_point_name", "source_version"), ""),
        }

    def _values(self, metrics: Iterable[entities.Metric]) -> list[Row]:
        """Rows of the metrics, equal ones once."""
        stored = dict.fromkeys(
            (metric.key, metric.step, metric.timestamp, *self._store.sanitize_metric_value(metric.value))
            for metric in metrics
        )
        return [dict(zip(("key", "step", "timestamp", "is_nan", "value"), row, strict=True)) for row in stored]

    def _check(self, run_ids: Sequence[str], session: Any) -> None:
        """Raise what MLflow's client raises where one of the runs cannot be written to."""
        from mlflow.store.tracking.dbmodels.models import SqlRun

        active = session.query(SqlRun.run_uuid).filter(SqlRun.run_uuid.in_(run_ids), SqlRun.lifecycle_stage == "active")
        for run_id in set(run_ids).difference(run_id for (run_id,) in active):
            self._store._check_run_is_active(self._store._get_run(session, run_id))


def rows_of(client: MlflowClient, experiment_id: str) -> Rows | None:
    """The rows of an experiment, if the client writes to a database itself instead of asking a server to."""
    store = client._tracking_client.store
    return Rows(store, experiment_id) if hasattr(store, "ManagedSessionMaker") else None


def _insert(session: Any, table: Any, rows: list[Row]) -> None:
    if rows:
        session.execute(table.__table__.insert(), rows)


def _compare(session: Any, table: Any, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Which of these rows of known runs the table lacks, and which take the place of what it has."""
    identity = [column.name for column in table.__table__.primary_key]
    asked = session.query(*table.__table__.columns).filter(table.run_uuid.in_({row["run_uuid"] for row in rows}))
    if "step" in identity:
        # The history of a long trial is of no interest here.
        asked = asked.filter(table.step >= min((row["step"] for row in rows), default=0))
    there = {tuple(old[name] for name in identity): old for old in (found._mapping for found in asked)}
    lacking, newer = [], []
    for row in rows:
        old = there.get(tuple(row[name] for name in identity))
        if old is None:
            lacking.append(row)
        elif table.__tablename__ == "tags" or (table.__tablename__ == "latest_metrics" and _order(row) > _order(old)):
            newer.append(row)
    return lacking, newer


def _moved(run: KnownRun) -> Row:
    standing = run.batch.standing
    assert standing is not None
    ended = {} if standing.end_ms is None else {"end_time": standing.end_ms}
    return {"run_uuid": run.place.run_id, "status": standing.status, **ended}


def _latest(values: Sequence[Row]) -> list[Row]:
    """Of each metric the last value."""
    return list({value["key"]: value for value in sorted(values, key=_order)}.values())


def _order(value: Mapping[str, Any]) -> tuple[float, float, float]:
    """Of two values of a metric the later one is the last, and of equally late ones the larger."""
    return value["step"], value["timestamp"], value["value"]
